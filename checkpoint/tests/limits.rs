//! The limits that SECURITY.md states: reading a small file takes at most 64 MiB of memory and 2 s, whatever it
//! describes. The only test of its file, because it measures the memory of the whole process.

mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use common::{Forged, file, op, torch_save, zip};
use pinhole_checkpoint::read_state_dict;

/// The most memory that this process has had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// Puts the value of `body` into memo `key`, and drops it from the stack.
fn memo(key: u8, body: Vec<u8>) -> Vec<u8> {
    [body, vec![b'q', key, b'0']].concat()
}

#[test]
fn small_files_take_little_memory_and_time() {
    let recall = |key: u8| vec![b'h', key];
    let long = "k".repeat(1000);

    // An ordered dictionary of 1000 pairs, copied by each of 150,000 calls.
    let pairs = op::tuple(&[op::text("a"), op::text("b")]);
    let pairs = [b"](".to_vec(), pairs.repeat(1000), b"e".to_vec()].concat();
    let arguments = [pairs, vec![0x85]].concat();
    let ordered = [
        memo(0, op::global("collections", "OrderedDict")),
        memo(1, arguments),
        [recall(0), recall(1), b"R0".to_vec()]
            .concat()
            .repeat(150_000),
        b"}".to_vec(),
    ];
    // A storage with a long key, and a global with a long name, again and again.
    let storage = [
        op::text("storage"),
        op::global("torch", "FloatStorage"),
        op::text(&long),
        op::text("cpu"),
        op::long(1),
    ];
    let keys = [
        memo(0, op::tuple(&storage)),
        [recall(0), b"Q0".to_vec()].concat().repeat(250_000),
        b"}".to_vec(),
    ];
    let globals = [
        memo(0, op::text(&long)),
        [recall(0), recall(0), vec![0x93, b'0']]
            .concat()
            .repeat(170_000),
        b"}".to_vec(),
    ];
    // One parameter with 16 dimensions, rebuilt again and again.
    let tensor = op::tensor(op::storage("FloatStorage", "0", 1), 0, &[1; 16], &[1; 16]);
    let parameters = [
        memo(0, op::global("torch._utils", "_rebuild_parameter")),
        memo(1, [tensor.clone(), vec![0x85]].concat()),
        [recall(0), recall(1), b"R0".to_vec()]
            .concat()
            .repeat(150_000),
        b"}".to_vec(),
    ];
    // One tensor under 60,000 names that share one text of 1000 bytes each with the module's.
    let names = [
        memo(0, op::text(&long)),
        memo(1, tensor),
        b"}(".to_vec(),
        [recall(0), recall(1)].concat().repeat(250_000),
        b"u".to_vec(),
    ];
    let values = [b"](".repeat(500), b"N".repeat(500_000), vec![b'l'; 400]];
    let mut cases: Vec<(&str, Vec<u8>)> = Vec::new();
    for (what, body) in [
        ("ordered dictionaries", ordered.concat()),
        ("keys of storages", keys.concat()),
        ("names of globals", globals.concat()),
        ("parameters", parameters.concat()),
        ("names", names.concat()),
        ("lists", b"]0".repeat(500_000)),
        ("memos", [b"N".to_vec(), vec![0x94; 1_000_000]].concat()),
        ("values", values.concat()),
        (
            "text that is no UTF-8",
            [b"X\0\0\x0f\0".to_vec(), vec![0xff; 0xf_0000]].concat(),
        ),
    ] {
        cases.push((what, torch_save(body, &[("0", vec![0; 4])])));
    }

    // Tensors that each inflate one storage again; a storage that inflates a thousandfold; configurations.
    let elements = 15 << 20;
    // Deflated in pieces, because this process has to stay small.
    let mut zeros = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..(4 * elements) >> 20 {
        zeros.write_all(&[0; 1 << 20]).unwrap();
    }
    let zeros = zeros.finish().unwrap();
    let tensors: Vec<_> = (0..100)
        .map(|i| {
            let storage = op::storage("FloatStorage", "0", elements);
            (
                format!("t{i}"),
                op::tensor(storage, elements - 1, &[1], &[1]),
            )
        })
        .collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (&**name, t.clone()))
        .collect();
    let again = zip(&[
        Forged::stored("a/data.pkl", &op::pickle(op::dict(&tensors))),
        Forged {
            size: 4 * elements as u64,
            deflated: true,
            ..Forged::stored("a/data/0", &zeros)
        },
    ]);
    cases.push(("a storage that each tensor inflates", again));
    let claims: Vec<_> = (0..8)
        .map(|i| Forged {
            size: 1 << 28,
            deflated: true,
            ..Forged::stored(&format!("a/data/{i}"), &[0; 1 << 17])
        })
        .chain([Forged::stored("a/data.pkl", &op::pickle(b"}".to_vec()))])
        .collect();
    cases.push(("entries that claim 2 GiB", zip(&claims)));

    let before = peak_mib();
    for (what, bytes) in cases {
        assert!(bytes.len() < 2 << 20, "{what}: {}", bytes.len());
        let (_folder, path) = file(&bytes);
        let started = Instant::now();
        let read = read_state_dict(&path).and_then(|state| {
            let names: Vec<_> = state.names().map(str::to_owned).collect();
            names
                .iter()
                .try_for_each(|name| state.tensor(name).map(|_| ()))
        });
        let (took, peak) = (started.elapsed(), peak_mib() - before);
        let length = bytes.len();
        println!("{what}: {length} bytes, {took:?}, {peak} MiB: {read:?}");
        assert!(peak <= 64, "{what}: {peak} MiB");
        // Twice as long with other tests beside this one.
        assert!(took < Duration::from_secs(4), "{what}: {took:?}");
        // What is accepted is read at little cost.
        let refused = [
            "ordered dictionaries",
            "names",
            "a storage that each tensor inflates",
            "entries that claim 2 GiB",
        ];
        if refused.contains(&what) {
            assert!(read.is_err(), "{what} was accepted");
        }
    }
}
