//! `pinhole classes`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use pinhole::internal::{UsageError, printable_path};
use pinhole::{Classes, LockedBundle, note};

use crate::cli::ClassesArgs;
use crate::{mistakes, open, output};

pub(crate) fn run(args: &ClassesArgs) -> Result<ExitCode> {
    let folder = &args.bundle.bundle;
    let mut out = output::stdout();
    if args.set.is_none() && args.add.is_empty() {
        for name in &open::bundle(folder)?.manifest().classes {
            writeln!(out, "{name}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    // From here on no other process changes the classes.
    let old = LockedBundle::open(folder, &mut open::waiting)
        .map_err(|e| mistakes::explain(folder, e.into()))?;
    let manifest = old.bundle().manifest();
    let was_calibrated = manifest.calibration.is_some();
    let classes = match &args.set {
        Some(file) => Classes::read(file)?,
        None => {
            let added = Classes::new(&args.add).map_err(UsageError::new)?;
            let names = manifest.classes.iter().chain(added.names());
            Classes::recorded(&names.cloned().collect::<Vec<_>>())?
        }
    };
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |done: usize, total: usize| {
        if terminal {
            let _ = write!(std::io::stderr(), "\r{done} of {total}");
        }
    };
    let changed = pinhole::change_classes(old, &classes, args.bundle.threads, &mut progress);
    if terminal {
        let _ = writeln!(std::io::stderr());
    }
    let manifest = changed.map_err(open::with_flag)?;
    if let Some(name) = args.add.iter().find(|name| name.contains(',')) {
        note!(
            "warning: {name:?} is one class; to add several, give each name as an argument of its own: --add cat dog"
        );
    }
    for warning in pinhole::class_warnings(&manifest, &classes) {
        note!("warning: {warning}");
    }
    if was_calibrated {
        note!(
            "note: reset the temperature and the thresholds for \"unknown\", which were calibrated on the old classes"
        );
    }
    let count = manifest.classes.len();
    writeln!(out, "{}: {count} classes", printable_path(folder))?;
    Ok(ExitCode::SUCCESS)
}
