//! The log of results: its lines, recovery after a power cut, and its size limit.

use std::time::{Duration, Instant, UNIX_EPOCH};

use pinhole_firmware::counters::RunCounters;
use pinhole_firmware::log::{
    ClassScore, LogAppender, LogError, MAX_LINE, RecordKind, ResultRecord, read,
};

use crate::log_support::{bytes, config, error, event, files, frames};

/// Other programs read these lines: names and types of the fields are a contract.
#[test]
fn a_record_is_a_line_of_json() {
    let at = |kind| ResultRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        seconds: 12.5,
        kind,
    };
    let head = r#"{"time":"2023-11-14T22:13:20.123Z","seconds":12.5,"kind":"#;
    let top = |probability, similarity| {
        let class = "red heart".into();
        vec![ClassScore {
            class,
            index: Some(3),
            probability,
            similarity,
        }]
    };
    let records = [
        (
            RecordKind::Start {
                version: "0.1.0".into(),
                bundle: "demo".into(),
            },
            r#""start","version":"0.1.0","bundle":"demo"}"#,
        ),
        (
            RecordKind::Event {
                from: None,
                to: "red heart".into(),
                top: top(0.5, 0.25),
                score: Some("sigmoid".into()),
                frame: 7,
            },
            concat!(
                r#""event","from":null,"to":"red heart","#,
                r#""top":[{"class":"red heart","index":3,"probability":0.5,"similarity":0.25}],"score":"sigmoid","frame":7}"#
            ),
        ),
        (
            RecordKind::Heartbeat {
                state: Some("unknown".into()),
                counters: Box::new(RunCounters {
                    frames: 3,
                    classified: 2,
                    dropped: 1,
                    ..RunCounters::default()
                }),
            },
            concat!(
                r#""still_there","state":"unknown","totals":{"seconds":0.0,"frames":3,"classified":2,"#,
                r#""still":0,"skipped":0,"dropped":1,"corrupt":0,"stalls":0,"reopened":0,"events":0,"#,
                r#""bundles_taken":0,"bundles_refused":0,"screens_shown":0,"display_failures":0,"#,
                r#""records":0,"records_written":0,"records_lost":0,"published":0,"#,
                r#""published_sent":0,"published_lost":0,"published_waiting":0,"lines_lost":0}}"#
            ),
        ),
        (
            RecordKind::Error {
                component: "camera".into(),
                text: "no frame for 5.0 s".into(),
            },
            r#""error","what":"camera","text":"no frame for 5.0 s"}"#,
        ),
        (
            RecordKind::Bundle {
                name: "demo, 64 classes, f16".into(),
            },
            r#""bundle","name":"demo, 64 classes, f16"}"#,
        ),
    ];
    for (kind, tail) in records {
        let record = at(kind);
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(line, format!("{head}{tail}"));
        assert_eq!(serde_json::from_str::<ResultRecord>(&line).unwrap(), record);
    }
    // A field of a later version; NaN, which JSON does not have; clocks that are far off.
    let later = format!("{head}\"end\",\"totals\":{{}},\"more\":[1]}}");
    assert_eq!(
        serde_json::from_str::<ResultRecord>(&later).unwrap(),
        at(end())
    );
    let odd = at(RecordKind::Event {
        from: None,
        to: "a".into(),
        top: top(f32::NAN, 0.0),
        score: None,
        frame: 0,
    });
    let odd: ResultRecord = serde_json::from_str(&serde_json::to_string(&odd).unwrap()).unwrap();
    assert!(matches!(&odd.kind, RecordKind::Event { top, .. } if top[0].probability.is_nan()));
    for (time, text) in [
        (UNIX_EPOCH - Duration::from_secs(9), "1970-01-01T00:00:00"),
        (
            UNIX_EPOCH + Duration::from_secs(1 << 40),
            "9999-12-31T23:59:59",
        ),
    ] {
        let record = ResultRecord {
            time,
            ..odd.clone()
        };
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.contains(text), "{line}");
    }
}

/// Wherever a power cut truncated the newest file, all earlier records are read and the log can be continued.
#[test]
fn a_log_truncated_anywhere_is_read_and_continued() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut log = LogAppender::open(&config(path, 1.0)).unwrap();
    for frame in 0..3 {
        let (to, top) = ("猫 \"1\"\n".into(), vec![]);
        let event = RecordKind::Event {
            from: None,
            to,
            top,
            score: None,
            frame,
        };
        assert!(
            log.append(&ResultRecord::now(event, Instant::now()))
                .unwrap()
        );
    }
    drop(log);
    let file = files(path).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let ends: Vec<usize> = (whole.iter().enumerate())
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1)
        .collect();
    assert_eq!(ends.len(), 3);
    // Nothing after the cut; zeros, as ext4 may leave; a torn line with other bytes.
    let tails: [&[u8]; 3] = [b"", &[0; 5000], b"\xFF\xFE{\"time\""];
    for at in 0..=whole.len() {
        // Disk access is slow: try the non-empty tails only at some positions.
        let tails = &tails[..if at % 8 == 0 { 3 } else { 1 }];
        for tail in tails.iter().copied() {
            std::fs::write(&file, [&whole[..at], tail].concat()).unwrap();
            // A record that lacks only the newline is complete.
            let lacks_newline = tail.is_empty() && ends.contains(&(at + 1));
            let kept =
                ends.iter().filter(|end| **end <= at).count() as u64 + u64::from(lacks_newline);
            let torn = !lacks_newline && !(tail.is_empty() && (at == 0 || ends.contains(&at)));
            let before: Vec<u64> = (0..kept).collect();
            assert_eq!(
                frames(path),
                (before.clone(), u64::from(torn)),
                "{at} {tail:?}"
            );

            let mut log = LogAppender::open(&config(path, 1.0)).unwrap();
            assert_eq!(log.damaged(), u64::from(torn), "{at} {tail:?}");
            assert!(log.append(&event(99)).unwrap());
            drop(log);
            let after = [before, vec![99]].concat();
            assert_eq!(frames(path), (after, 0), "{at} {tail:?}");
            assert_eq!(files(path).len(), 1);
        }
    }
}

/// Damage in the middle of a file is counted and skipped.
#[test]
fn damaged_lines_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let line = |frame| serde_json::to_string(&event(frame)).unwrap();
    let text = [
        line(0),
        String::new(),
        "\0".repeat(3000),
        line(1),
        r#"{"time":"2023-11-14T22:13:20Z","seconds":1,"kind":"later"}"#.into(),
        r#"{"time":"yesterday","seconds":1,"kind":"end"}"#.into(),
        "[".repeat(MAX_LINE - 1),
        line(2),
        String::new(),
    ];
    std::fs::write(path.join("results-000007.jsonl"), text.join("\n")).unwrap();
    assert_eq!(frames(path), (vec![0, 1, 2], 5));
    let mut log = LogAppender::open(&config(path, 10.0)).unwrap();
    assert_eq!(log.damaged(), 5);
    log.append(&event(3)).unwrap();
    assert_eq!(frames(path), (vec![0, 1, 2, 3], 5));
}

#[test]
fn the_log_keeps_the_newest_records_within_its_size_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/log");
    let limit = 100_000;
    let mut log = LogAppender::open(&config(&path, 0.1)).unwrap();
    let long = error("x".repeat(50_000));
    for frame in 0..3000 {
        log.append(&event(frame)).unwrap();
        if frame == 1500 {
            log.append(&long).unwrap();
        }
        let used = bytes(&path);
        assert!(used <= limit, "frame {frame}: {used} bytes");
    }
    // After reopening, the same file is continued within the same limit.
    drop(log);
    let before = files(&path);
    let mut log = LogAppender::open(&config(&path, 0.1)).unwrap();
    log.append(&event(3000)).unwrap();
    assert_eq!(files(&path), before);
    let used = bytes(&path);
    assert!((limit * 3 / 4..=limit).contains(&used), "{used}");
    let (kept, damaged) = frames(&path);
    assert_eq!(damaged, 0);
    let first = kept[0];
    assert_eq!(kept, (first..=3000).collect::<Vec<_>>());

    // With a smaller limit, the oldest files are deleted at once. Other files stay.
    drop(log);
    std::fs::write(path.join("notes.jsonl"), [b'x'; 1000]).unwrap();
    for _ in 0..3 {
        let name = format!("results-9000{:02}.jsonl", files(&path).len());
        std::fs::write(path.join(name), [b'\n'; 60_000]).unwrap();
    }
    drop(LogAppender::open(&config(&path, 0.1)).unwrap());
    assert!(bytes(&path) <= limit + 1000, "{}", bytes(&path));
    assert!(path.join("notes.jsonl").exists());
}

/// The reader would count it as damaged.
#[test]
fn a_record_that_is_too_long_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogAppender::open(&config(folder.path(), 1.0)).unwrap();
    let empty = serde_json::to_string(&error(String::new())).unwrap().len() + 1;
    assert!(log.append(&error("x".repeat(MAX_LINE - empty))).unwrap());
    let refused = log.append(&error("x".repeat(MAX_LINE - empty + 1)));
    assert!(matches!(refused, Err(LogError::TooLong { bytes }) if bytes == MAX_LINE + 1));
    assert!(log.append(&event(1)).unwrap());
    assert_eq!((log.written(), log.lost(), log.is_failing()), (2, 1, false));
    let mut reader = read(folder.path()).unwrap();
    assert_eq!((reader.by_ref().count(), reader.damaged()), (2, 0));
}

/// Entries named like log files: a folder, a pipe without a writer, a symbolic link, the largest number.
#[test]
fn entries_that_are_not_log_files_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("results-000003.jsonl")).unwrap();
    let pipe = path.join("results-000004.jsonl");
    // Not by the program mkfifo: until it runs, the child process shares the locks of other tests' logs.
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path.join("results-000005.jsonl")).unwrap();
    std::fs::write(path.join(format!("results-{}.jsonl", u64::MAX)), "x").unwrap();
    std::fs::write(path.join("results-1.jsonl"), "x").unwrap();
    let mut log = LogAppender::open(&config(path, 1.0)).unwrap();
    log.append(&event(5)).unwrap();
    assert!(path.join("results-000006.jsonl").is_file());
    assert_eq!(frames(path), (vec![5], 0));
}

#[test]
fn a_log_is_locked_for_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let first = LogAppender::open(&config(folder.path(), 1.0)).unwrap();
    let second = LogAppender::open(&config(folder.path(), 1.0));
    assert!(matches!(second, Err(LogError::InUse { .. })));
    drop(first);
    LogAppender::open(&config(folder.path(), 1.0)).unwrap();
}

fn end() -> RecordKind {
    RecordKind::End {
        counters: Box::default(),
    }
}

#[test]
fn seconds_of_a_record_count_from_the_start() {
    let start = Instant::now() - Duration::from_millis(1500);
    let record = ResultRecord::now(end(), start);
    assert!((1.5..10.0).contains(&record.seconds), "{}", record.seconds);
}
