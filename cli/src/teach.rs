//! `pinhole teach`.
//!
//! After a change, and with `--list`, `--json` prints `bundle` (the folder) and the fields of [`LessonLine`].
//!
//! With `--evaluate`: `images` of classes, `accuracy` (the share of those whose class is the best), `unknown` (the share of
//! those that are answered "unknown"), `classes` (`class`, `images`, `accuracy`), `strangers` (images of other folders) and
//! `strangers_rejected` (the share of those that are answered "unknown"; null without any).

use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use pinhole::internal::{LessonLine, UsageError, json_path, most_similar, printable_path};
use pinhole::{
    ClassLesson, ClassText, Classes, Classifier, Lesson, NONE_OF_THESE, Teacher, note, wrong_usage,
};
use serde::Serialize;

use crate::cli::TeachArgs;
use crate::{mistakes, open, output};

pub(crate) fn run(args: &TeachArgs) -> Result<ExitCode> {
    let (folder, action) = (&args.bundle.bundle, &args.action);
    if let Some(images) = &action.evaluate {
        return evaluate(args, images);
    }
    if action.list {
        let lesson = pinhole::lesson(folder);
        let lesson = lesson.map_err(|e| mistakes::explain(folder, e.into()))?;
        return print(args, &lesson);
    }
    if args.keep_photos.is_some() && args.images.iter().any(|path| open::is_stdin(path)) {
        wrong_usage!("--keep-photos: expected image files, found standard input (-)");
    }
    let mut teacher = Teacher::open(folder, args.bundle.threads, &mut open::waiting)
        .map_err(|e| mistakes::explain(folder, open::with_flag(e)))?;
    let mut photos = vec![];
    let class = if action.none {
        Some(NONE_OF_THESE)
    } else {
        action.class.as_deref()
    };
    if let Some(class) = class {
        photos = show(args, &mut teacher, class)?;
    } else if action.undo {
        teacher.undo()?;
    }
    for name in &action.remove {
        teacher.remove_class(name)?;
    }
    for id in &action.remove_example {
        teacher.remove_example(*id)?;
    }
    // Before the bundle is replaced: what fails afterwards would be taught again with the next try.
    if let (Some(folder), Some(class)) = (&args.keep_photos, class) {
        keep(&photos, &folder.join(folder_name(class)))?;
    }
    let lesson = teacher.save()?;
    print(args, &lesson)
}

/// Adds the class if it is new, and its examples. Returns the images' files.
fn show(args: &TeachArgs, teacher: &mut Teacher, class: &str) -> Result<Vec<PathBuf>> {
    let new = !teacher.has_class(class);
    if new {
        let texts = [class].into_iter().chain(args.text.as_deref());
        Classes::new(texts).map_err(UsageError::new)?;
    }
    let mut files = vec![];
    for path in &args.images {
        files.extend(mistakes::image_files(path)?);
    }
    // While the bundle is locked.
    let mut embeddings = vec![];
    if !files.is_empty() {
        let classifier = open::classifier(&args.bundle)?;
        teacher.check_encoder(&classifier)?;
        let options =
            open::decode_options(&args.output.decode, &classifier.manifest().preprocessing);
        for file in &files {
            let image = open::image(file, &options)?;
            let embedding = classifier.embed(&image);
            embeddings.push(
                embedding
                    .with_context(|| printable_path(file).into_owned())?
                    .values,
            );
        }
    }
    if new || files.is_empty() {
        let text = match &args.text {
            Some(text) => ClassText::Text(text),
            None => ClassText::NameIfPossible,
        };
        teacher.add_class(class, text).map_err(open::with_flag)?;
    } else if args.text.is_some() {
        bail!(
            "--text: expected a new class, found {class:?} in the bundle; leave the flag out, or remove the class first"
        );
    }
    teacher.add_examples(class, &embeddings)?;
    Ok(files)
}

/// Copies files into `folder` under names that are free.
fn keep(files: &[PathBuf], folder: &Path) -> Result<()> {
    let shown = || printable_path(folder).into_owned();
    let context = || format!("--keep-photos: {}: cannot create the folder", shown());
    fs::create_dir_all(folder).with_context(context)?;
    for file in files {
        let name = file.file_name().unwrap_or_default();
        let mut target = folder.join(name);
        for number in 2.. {
            if !target.exists() {
                break;
            }
            let mut other = std::ffi::OsString::from(format!("{number}-"));
            other.push(name);
            target = folder.join(other);
        }
        let context = || {
            format!(
                "--keep-photos: {}: cannot copy to {}",
                printable_path(file),
                shown()
            )
        };
        fs::copy(file, &target).with_context(context)?;
    }
    Ok(())
}

/// A class's name as that of a folder inside another one.
fn folder_name(class: &str) -> String {
    let name = class.replace(['/', '\0'], "_");
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => name,
    }
}

#[derive(Serialize)]
struct BundleLesson<'a> {
    bundle: Cow<'a, str>,
    #[serde(flatten)]
    lesson: LessonLine<'a>,
}

fn print(args: &TeachArgs, lesson: &Lesson) -> Result<ExitCode> {
    let mut out = output::stdout();
    let folder = &args.bundle.bundle;
    if args.output.json {
        let time = |time| humantime::format_rfc3339_seconds(time).to_string();
        out.json(&BundleLesson {
            bundle: json_path(folder),
            lesson: LessonLine::new(lesson, time),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let examples: usize = lesson.classes.iter().map(|c| c.examples.len()).sum();
    let measured = lesson.classes.iter().filter(|c| c.accuracy.is_some());
    let measured: usize = measured.map(|c| c.examples.len()).sum();
    write!(
        out,
        "{}: {} classes, {} head",
        printable_path(folder),
        lesson.classes.len(),
        lesson.head
    )?;
    match lesson.accuracy {
        Some(accuracy) => writeln!(
            out,
            "; leave-one-out accuracy {:.1} % of {measured} examples",
            100.0 * accuracy
        )?,
        None => writeln!(out)?,
    }
    let (shown, by_text): (Vec<&ClassLesson>, Vec<_>) =
        (lesson.classes.iter()).partition(|class| !class.examples.is_empty() || !class.has_text);
    for class in shown {
        let count = class.examples.len();
        let accuracy = match class.accuracy {
            Some(accuracy) => format!("{:5.1} %", 100.0 * accuracy),
            None if count == 0 => "      needs an example".into(),
            None => "      show it once more to measure it".into(),
        };
        writeln!(out, "  {count:3} examples  {accuracy}  {}", class.name)?;
    }
    if !by_text.is_empty() {
        writeln!(out, "  {} classes by their text alone", by_text.len())?;
    }
    if let (Some(reason), true) = (&lesson.no_thresholds, examples > 0) {
        writeln!(out, "  no thresholds for \"unknown\" were fitted: {reason}")?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Tally {
    images: usize,
    right: usize,
    unknown: usize,
}

impl Tally {
    fn share(&self, part: usize) -> Option<f32> {
        (self.images > 0).then(|| part as f32 / self.images as f32)
    }
}

#[derive(Serialize)]
struct EvaluationLine<'a> {
    bundle: Cow<'a, str>,
    images: usize,
    accuracy: Option<f32>,
    unknown: Option<f32>,
    classes: Vec<ClassEvaluation<'a>>,
    strangers: usize,
    strangers_rejected: Option<f32>,
}

#[derive(Serialize)]
struct ClassEvaluation<'a> {
    class: &'a str,
    images: usize,
    accuracy: Option<f32>,
}

/// Classifies the images in one folder per class.
fn evaluate(args: &TeachArgs, folder: &Path) -> Result<ExitCode> {
    let classifier = open::classifier(&args.bundle)?;
    let classes = &classifier.manifest().classes;
    let mut tallies: Vec<Tally> = classes.iter().map(|_| Tally::default()).collect();
    let mut strangers = Tally::default();
    let mut code = ExitCode::SUCCESS;
    for (path, class) in labelled(folder, &classifier)? {
        let tally = class.map_or(&mut strangers, |class| &mut tallies[class]);
        let options =
            open::decode_options(&args.output.decode, &classifier.manifest().preprocessing);
        let answer =
            open::image(&path, &options).and_then(|image| Ok(classifier.classify(&image)?));
        match answer {
            Ok(answer) => {
                let best = answer.ranking.first().map(|best| best.index);
                tally.images += 1;
                tally.unknown += usize::from(answer.unknown);
                tally.right += usize::from(best == class);
            }
            Err(e) => {
                output::error(&e);
                code = ExitCode::FAILURE;
            }
        }
    }
    let all = Tally {
        images: tallies.iter().map(|t| t.images).sum(),
        right: tallies.iter().map(|t| t.right).sum(),
        unknown: tallies.iter().map(|t| t.unknown).sum(),
    };
    let measured = classes.iter().zip(&tallies).filter(|(_, t)| t.images > 0);
    let mut out = output::stdout();
    if args.output.json {
        out.json(&EvaluationLine {
            bundle: json_path(&args.bundle.bundle),
            images: all.images,
            accuracy: all.share(all.right),
            unknown: all.share(all.unknown),
            classes: measured
                .map(|(class, t)| ClassEvaluation {
                    class,
                    images: t.images,
                    accuracy: t.share(t.right),
                })
                .collect(),
            strangers: strangers.images,
            strangers_rejected: strangers.share(strangers.unknown),
        })?;
        return Ok(code);
    }
    let percent = |share: Option<f32>| 100.0 * share.unwrap_or(0.0);
    writeln!(
        out,
        "{}: accuracy {:.1} % of {} images, {:.1} % answered unknown",
        printable_path(&args.bundle.bundle),
        percent(all.share(all.right)),
        all.images,
        percent(all.share(all.unknown))
    )?;
    for (class, t) in measured {
        writeln!(
            out,
            "  {:4} images  {:5.1} %  {class}",
            t.images,
            percent(t.share(t.right))
        )?;
    }
    if strangers.images > 0 {
        writeln!(
            out,
            "  {:4} images of no class: {:.1} % answered unknown",
            strangers.images,
            percent(strangers.share(strangers.unknown))
        )?;
    }
    Ok(code)
}

/// The images in `folder`, with the class that their folder is named after.
fn labelled(folder: &Path, classifier: &Classifier) -> Result<Vec<(PathBuf, Option<usize>)>> {
    mistakes::check_folder(folder, "one folder of images per class")?;
    let shown = printable_path(folder);
    let failed = |e: std::io::Error| anyhow!("--evaluate {shown}: cannot read the folder: {e}");
    let manifest = classifier.manifest();
    let name = |text: &str| text.replace('_', " ");
    let mut entries = vec![];
    for entry in fs::read_dir(folder).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    let mut images = vec![];
    let mut known = vec![];
    let mut strangers = vec![];
    for path in entries.iter().filter(|path| path.is_dir()) {
        let own = name(&path.file_name().unwrap_or_default().to_string_lossy());
        let class = manifest.classes.iter().position(|class| name(class) == own);
        match class {
            Some(class) => known.push(class),
            None => strangers.push((path, own)),
        }
        // Images of what is none of the classes are to be unknown.
        let class = class.filter(|class| manifest.unknown.class != Some(*class));
        let found = pinhole::internal::images_in(path).map_err(failed)?;
        images.extend(found.into_iter().map(|file| (file, class)));
    }
    let unseen = (0..manifest.classes.len()).filter(|class| !known.contains(class));
    let unseen: Vec<&str> = unseen
        .map(|class| manifest.classes[class].as_str())
        .collect();
    for (path, own) in strangers {
        if let Some(class) = most_similar(&own, unseen.iter().copied()) {
            note!(
                "warning: --evaluate {}: not the name of a class, so its images are to be unknown; did you mean the class \
                 {class:?}?",
                printable_path(path)
            );
        }
    }
    known.retain(|class| manifest.unknown.class != Some(*class));
    if known.is_empty() {
        bail!(
            "--evaluate {shown}: expected folders named after classes of the bundle, found none; `pinhole classes BUNDLE` \
             lists them"
        );
    }
    Ok(images)
}
