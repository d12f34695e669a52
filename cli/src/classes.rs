//! `pinhole classes`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use pinhole::{Bundle, Classes};

use crate::cli::ClassesArgs;
use crate::{open, output};

pub(crate) fn run(args: &ClassesArgs) -> Result<ExitCode> {
    let folder = &args.bundle.bundle;
    let old = Bundle::open(folder)?;
    let mut names = old.manifest().classes.clone();
    let mut out = std::io::stdout().lock();
    let classes = match &args.set {
        Some(file) => Classes::read(file)?,
        None if args.add.is_empty() => {
            for name in names {
                writeln!(out, "{name}")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        None => {
            let added = Classes::new(&args.add)?;
            names.extend_from_slice(added.names());
            Classes::recorded(&names)?
        }
    };
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |done: usize, total: usize| {
        if terminal {
            let _ = write!(std::io::stderr(), "\r{done} of {total}");
        }
    };
    let changed = pinhole::set_classes(folder, &classes, args.bundle.threads, &mut progress);
    if terminal {
        let _ = writeln!(std::io::stderr());
    }
    let manifest = changed.map_err(open::with_flag)?;
    if let [name] = &args.add[..]
        && name.contains(',')
    {
        output::note(format_args!(
            "warning: added one class, {name:?}; to add several, give each name as an argument of its own: --add cat dog"
        ));
    }
    for warning in pinhole::class_warnings(&manifest, &classes) {
        output::note(format_args!("warning: {warning}"));
    }
    if old.manifest().calibration.is_some() {
        output::note(format_args!(
            "note: reset the temperature and the thresholds for \"unknown\", which were calibrated on the old classes"
        ));
    }
    let count = manifest.classes.len();
    writeln!(out, "{}: {count} classes", folder.display())?;
    Ok(ExitCode::SUCCESS)
}
