//! From arguments to frames: the source, how frames are selected, how answers become a state, and when it ends.

use std::path::Path;

use anyhow::{Context, Result};
use pinhole::PreprocessConfig;
use pinhole::camera::{CameraOptions, FrameSource, Region, StreamInput, TrackerOptions};
use pinhole::internal::{UsageError, ignores_hang_up};
use pinhole::wrong_usage;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::{CameraSource, DecodeArgs, FrameArgs, TrackerArgs};
use crate::{mistakes, open};

/// The source of the frames, not opened yet.
pub(crate) fn source(from: &CameraSource, args: &FrameArgs) -> Result<FrameSource> {
    let input = |path: &Path| {
        if open::is_stdin(path) {
            StreamInput::Stdin
        } else {
            StreamInput::Path(path.to_owned())
        }
    };
    if let Some(url) = &from.url {
        return Ok(FrameSource::url(url, args.interval).map_err(UsageError::new)?);
    }
    for (flag, path) in [
        ("--mjpeg", &from.mjpeg),
        ("--y4m", &from.y4m),
        ("--folder", &from.folder),
        ("--device", &from.device),
    ] {
        path.as_deref()
            .map_or(Ok(()), |path| mistakes::check_stream(path, flag))?;
    }
    if let Some(folder) = &from.folder {
        mistakes::check_folder(folder, "a folder of images")?;
    }
    Ok(match (&from.mjpeg, &from.y4m, &from.folder, &from.device) {
        (Some(path), ..) => FrameSource::mjpeg(input(path)),
        (_, Some(path), ..) => FrameSource::y4m(input(path)),
        (_, _, Some(path), _) if args.watch => FrameSource::watched_folder(path),
        (_, _, Some(path), _) => FrameSource::folder(path),
        (_, _, _, Some(path)) => device(path)?,
        _ => wrong_usage!("expected --url, --mjpeg, --y4m, --folder or --device, found none"),
    })
}

#[cfg(feature = "v4l")]
fn device(path: &Path) -> Result<FrameSource> {
    Ok(FrameSource::device(path))
}

#[cfg(not(feature = "v4l"))]
fn device(path: &Path) -> Result<FrameSource> {
    let path = path.display();
    anyhow::bail!(
        "--device {path}: this build lacks the feature v4l; build with `--features v4l`, or use \
         `ffmpeg -f v4l2 -i {path} -c:v mjpeg -f mjpeg - | pinhole camera BUNDLE --mjpeg -`"
    )
}

/// The first Ctrl-C, SIGTERM or SIGHUP calls `stop`, the second ends the program at once. `nohup` has SIGHUP ignored,
/// which remains.
pub(crate) fn stop_on_signals(stop: impl FnOnce() + Send + 'static) -> Result<()> {
    let signals = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let signals = signals.filter(|signal| *signal != SIGHUP || !ignores_hang_up());
    let mut signals = Signals::new(signals).context("cannot install signal handlers")?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            stop();
        }
        if let Some(signal) = signals.next() {
            // Does not return for these signals.
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// Which frames are used, and how they are decoded.
pub(crate) fn options(
    from: &CameraSource,
    args: &FrameArgs,
    decode: &DecodeArgs,
    preprocessing: &PreprocessConfig,
) -> CameraOptions {
    let defaults = CameraOptions::default();
    CameraOptions {
        live: args.live.then_some(true),
        every: args.every,
        region: region(args),
        still_threshold: args.still_threshold,
        // A folder has no frame rate, so that it cannot stall.
        timeout: match from.folder {
            Some(_) => args.timeout,
            None => args.timeout.or(defaults.timeout),
        },
        decode: open::decode_options(decode, preprocessing),
        ..defaults
    }
}

/// The part of each frame that is classified.
pub(crate) fn region(args: &FrameArgs) -> Option<Region> {
    (args.region).map(|[x, y, width, height]| Region {
        x,
        y,
        width,
        height,
    })
}

/// How answers become a state.
pub(crate) fn tracker(args: &TrackerArgs) -> TrackerOptions {
    TrackerOptions {
        smoothing: args.smoothing,
        hysteresis: args.hysteresis,
        hysteresis_time: args.hysteresis_seconds,
        margin: args.margin,
        cool_down: args.cool_down_seconds,
    }
}
