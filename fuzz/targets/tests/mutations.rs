//! Every parser answers its seeds, and mutations of them, without a panic and within the time that SECURITY.md states.
//! The mutations are the same in every run; how many are tried depends on the machine. `PINHOLE_FUZZ_SECONDS` gives each
//! target more time than 0.3 s, and `PINHOLE_FUZZ_SEED`, a number, other mutations.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use pinhole_bundle::dialect::{DOMAIN_VERSION, Op};
use pinhole_fuzz_targets::{TARGETS, seeds};

/// The processor time for an input, in a build with assertions.
const MOST: Duration = Duration::from_secs(4);

/// The processor time of this thread: on a busy machine, a clock would count what others do.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Numbers that sizes and counts go wrong at.
const NUMBERS: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 62,
    u64::MAX,
];

/// One to four changes of `bytes`.
fn mutate(bytes: &mut Vec<u8>, others: &[(String, Vec<u8>)], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        let end = at + random.below(64).min(bytes.len() - at);
        match random.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => {
                // A number of 1, 2, 4 or 8 bytes in either order.
                let number = NUMBERS[random.below(NUMBERS.len())];
                let length = (1 << random.below(4)).min(bytes.len() - at);
                let mut encoded = number.to_le_bytes()[..length].to_vec();
                if random.below(2) == 0 {
                    encoded.reverse();
                }
                bytes[at..at + length].copy_from_slice(&encoded);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            5 => bytes.truncate(at),
            6 => {
                // The end of another seed.
                let other = &others[random.below(others.len())].1;
                bytes.truncate(at);
                bytes.extend(&other[random.below(other.len())..]);
            }
            7 => {
                // A digit of a text.
                if let Some(digit) = bytes.iter().skip(at).position(u8::is_ascii_digit) {
                    let digits = [b"0".as_slice(), b"-1", b"99999999999", b"1e999", b"null"];
                    let digits = digits[random.below(digits.len())];
                    bytes.splice(at + digit..at + digit + 1, digits.iter().copied());
                }
            }
            _ => {
                let more = 1 + random.below(8);
                let values: Vec<u8> = (0..more).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, values);
            }
        }
    }
    bytes.truncate(1 << 18);
}

fn try_mutations(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).unwrap();
    let seconds = std::env::var("PINHOLE_FUZZ_SECONDS").map_or(0.3, |text| text.parse().unwrap());
    let seeds = seeds(target);
    let run = |what: &str, bytes: &[u8]| {
        let started = processor_time();
        (target.run)(bytes);
        let took = processor_time() - started;
        assert!(took < MOST, "{name}: {what} took {took:?}: {bytes:02x?}");
    };
    for (seed, bytes) in &seeds {
        run(seed, bytes);
    }
    let seed: u64 = std::env::var("PINHOLE_FUZZ_SEED").map_or(0, |text| text.parse().unwrap());
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
    let (started, mut tried) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs_f64(seconds) {
        let (seed, bytes) = &seeds[random.below(seeds.len())];
        let mut bytes = bytes.clone();
        mutate(&mut bytes, &seeds, &mut random);
        run(&format!("mutation {tried}, of {seed},"), &bytes);
        tried += 1;
    }
    println!("{name}: {} seeds, {tried} mutations", seeds.len());
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            try_mutations(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_test_and_a_file() {
            let tested = BTreeSet::from([$(stringify!($name)),*]);
            let targets: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tested, targets);
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
            for name in targets {
                assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).exists(), "{name}");
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            }
        }
    };
}

tests! {
    jpeg png gif bmp webp mjpeg y4m www_authenticate pickle zip_checkpoint legacy_checkpoint safetensors tensor_file open_clip_config
    transformers_config shard_index prompt_learner manifest head golden onnx_check onnx_dialect onnx_foreign npy npz
    examples classes folder_names templates tokenizer firmware_config log split_file captions tokenizer_file sentencepiece
    web_request web_password web_archive web_settings
}

/// Otherwise the mutations of onnx_dialect would test nothing but the first check.
#[test]
fn seeds_of_the_dialect_load() {
    let target = TARGETS.iter().find(|t| t.name == "onnx_dialect").unwrap();
    let seeds = seeds(target);
    assert!(seeds.len() >= 4);
    for (seed, bytes) in seeds {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("image_encoder.onnx"), bytes).unwrap();
        let large = seed.contains("resnet") || seed.contains("64");
        let side = if large { 64 } else { 32 };
        if let Err(error) = pinhole::internal::load_onnx(folder.path(), side, 16) {
            panic!("{seed}: {error}");
        }
    }
}

/// Otherwise no mutation reaches the checks of its functions.
#[test]
fn seeds_have_the_functions_of_the_newest_version_of_the_dialect() {
    let target = TARGETS.iter().find(|t| t.name == "onnx_dialect").unwrap();
    let seeds = seeds(target);
    let newest = Op::all().filter(|op| op.since() == DOMAIN_VERSION);
    let used = |op: &Op| {
        let name = op.name();
        let called = |bytes: &[u8]| bytes.windows(name.len()).any(|w| w == name.as_bytes());
        seeds.iter().any(|(_, bytes)| called(bytes))
    };
    let used: Vec<Op> = newest.filter(used).collect();
    let attention = |op: &Op| matches!(op, Op::Attention(..));
    assert!(used.iter().any(attention), "{used:?}");
    assert!(used.iter().any(|op| !attention(op)), "{used:?}");
}
