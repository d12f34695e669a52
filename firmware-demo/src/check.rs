//! `pinhole-firmware check`: everything that the configuration names is tried as `run` will, and every fault is reported
//! with its field, not only the first.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinhole::TestedBundle;

use crate::access::{self, Access};
use crate::bundle;
use crate::camera;
use crate::canvas::Canvas;
use crate::config::{ApplianceConfig, LogConfig, MqttConfig, SourceConfig, WebConfig};
use crate::screens::{BootScreen, BootStep, Screen, draw};
use crate::text::Fonts;

/// A result of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A part that works, or a note about it.
    Note(String),
    /// Something that `run` would report or show as an error; it names the field.
    Error(String),
}

/// Checks everything that `config` names, and passes each result to `report` when it is known.
pub fn check(config: &ApplianceConfig, report: &mut dyn FnMut(Finding)) {
    let bundle = check_bundle(config, report);
    let source = check_source(config);
    report_result(source, report);
    let mut fonts = check_fonts(config, bundle.as_ref(), report);
    if let Some(log) = &config.log {
        report_result(check_log(log), report);
    }
    if let Some(mqtt) = &config.mqtt {
        check_mqtt(mqtt, bundle.as_ref(), report);
    }
    if let Some(web) = &config.web {
        report_result(check_web(web), report);
    }
    let display = check_display(config, bundle.as_ref(), &mut fonts);
    report_result(display, report);
    if rustix::process::geteuid().is_root() {
        report(Finding::Note(
            "permissions: not checked, as root may use everything; the service runs as the user pinhole (sudo -u \
             pinhole pinhole-firmware check ...)"
                .into(),
        ));
    }
}

fn report_result(result: Result<String, String>, report: &mut dyn FnMut(Finding)) {
    report(match result {
        Ok(note) => Finding::Note(note),
        Err(error) => Finding::Error(error),
    });
}

fn check_bundle(config: &ApplianceConfig, report: &mut dyn FnMut(Finding)) -> Option<TestedBundle> {
    if let Some(note) = config.threads_note() {
        report(Finding::Note(note));
    }
    let bundle = match bundle::open(&config.bundle, config.classifier_builder()) {
        Ok(bundle) => bundle,
        Err(reason) => {
            report(Finding::Error(format!("bundle: {reason}")));
            return None;
        }
    };
    if access::is_mount_point(&config.bundle) {
        report(Finding::Note(format!(
            "bundle: {} is a mount point, which cannot be replaced as a whole: `pinhole classes` and a copy by renaming \
             fail there; put the bundle into a folder inside it",
            config.bundle.display()
        )));
    }
    let manifest = bundle.classifier.manifest();
    report(Finding::Note(format!(
        "bundle: {}, {} classes, opened in {:.2} s, self-test {} of {}",
        manifest.model.name,
        manifest.classes.len(),
        bundle.load_time.as_secs_f64(),
        bundle.tested,
        bundle.tested
    )));
    Some(bundle)
}

/// The source is not opened: a camera may be in use by the running appliance.
fn check_source(config: &ApplianceConfig) -> Result<String, String> {
    // Reports what this build lacks.
    camera::source(config)?;
    let SourceConfig {
        command,
        url,
        mjpeg,
        y4m,
        folder,
        device,
        interval_seconds,
        timeout_seconds,
        ..
    } = &config.source;
    if let Some(program) = command.as_ref().and_then(|command| command.first()) {
        let found = find_program(program, &config.folder, std::env::var_os("PATH").as_deref())
            .map_err(|reason| format!("source.command: {program}: {reason}"))?;
        return Ok(format!("source: {}", found.display()));
    }
    if let Some(url) = url {
        let shown = pinhole::internal::without_credentials(url);
        if !url.to_ascii_lowercase().starts_with("http") {
            find_program(
                "ffmpeg",
                &config.folder,
                std::env::var_os("PATH").as_deref(),
            )
            .map_err(|reason| format!("source.url: {shown}: ffmpeg: {reason}"))?;
        } else if *timeout_seconds > 0.0 && interval_seconds >= timeout_seconds {
            return Err(format!(
                "source.interval_seconds: expected less than source.timeout_seconds ({timeout_seconds} s), found \
                 {interval_seconds} s: a camera of single pictures would seem to stall before each; raise \
                 timeout_seconds"
            ));
        }
        return Ok(format!("source: {shown} (not connected)"));
    }
    let (field, path, checked) = if let Some(path) = mjpeg {
        ("source.mjpeg", path, check_stream(path))
    } else if let Some(path) = y4m {
        ("source.y4m", path, check_stream(path))
    } else if let Some(path) = folder {
        ("source.folder", path, check_folder(path, Access::List))
    } else if let Some(path) = device {
        ("source.device", path, check_device(path))
    } else {
        // Impossible: there is exactly one source.
        return Ok("source: none".into());
    };
    checked.map_err(|reason| format!("{field}: {}: {reason}", path.display()))?;
    Ok(format!("source: {}", path.display()))
}

/// The program that the system would run for `program` in the folder `current`.
fn find_program(
    program: &str,
    current: &Path,
    path: Option<&std::ffi::OsStr>,
) -> Result<PathBuf, String> {
    if program.contains('/') {
        let file = current.join(program);
        access::check(&file, Access::Execute)?;
        return match file.is_dir() {
            true => Err("expected a program, found a folder".into()),
            false => Ok(file),
        };
    }
    let folders = std::env::split_paths(path.unwrap_or_default());
    let files: Vec<PathBuf> = (folders.map(|folder| current.join(folder).join(program)))
        .filter(|file| file.is_file())
        .collect();
    let runs = |file: &&PathBuf| access::check(file, Access::Execute).is_ok();
    if let Some(file) = files.iter().find(runs) {
        return Ok(file.clone());
    }
    if let Some(file) = files.first() {
        access::check(file, Access::Execute)?;
    }
    let package = match program {
        _ if program.starts_with("rpicam-") => "; install the package rpicam-apps",
        "ffmpeg" => "; install the package ffmpeg",
        _ if program.starts_with("gst-launch") => "; install the package gstreamer1.0-tools",
        _ => "; install it, or name it with its folder",
    };
    Err(format!("expected a program, found none in PATH{package}"))
}

fn check_stream(path: &Path) -> Result<(), String> {
    if path.as_os_str() == "-" {
        return Ok(());
    }
    access::check(path, Access::Read)?;
    match path.is_dir() {
        true => Err("expected a file, a named pipe or a device, found a folder".into()),
        false => Ok(()),
    }
}

fn check_folder(path: &Path, needed: Access) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|e| access::explain(path, needed, &e))?;
    if !metadata.is_dir() {
        return Err("expected a folder, found a file".into());
    }
    access::check(path, needed)
}

fn check_device(path: &Path) -> Result<(), String> {
    access::check(path, Access::ReadWrite)?;
    let metadata = std::fs::metadata(path).map_err(|e| e.to_string())?;
    match metadata.file_type().is_char_device() {
        true => Ok(()),
        false => Err("expected a device such as /dev/video0, found another kind of file".into()),
    }
}

fn check_fonts(
    config: &ApplianceConfig,
    bundle: Option<&TestedBundle>,
    report: &mut dyn FnMut(Finding),
) -> Fonts {
    let (mut fonts, errors) =
        Fonts::load_usable(&config.screen.fonts, config.display.is_monochrome());
    for error in errors {
        report(Finding::Error(error.to_string()));
    }
    let Some(bundle) = bundle else { return fonts };
    let classes = &bundle.classifier.manifest().classes;
    let mut missing: Vec<char> = (classes.iter())
        .flat_map(|name| fonts.missing_characters(name))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    report(Finding::Note(if missing.is_empty() {
        "fonts: every class name can be shown".into()
    } else {
        format!(
            "fonts: no font has the characters {missing:?} of the class names, so they are shown as boxes; add a font \
             to screen.fonts"
        )
    }));
    let approximate: Vec<&String> = (classes.iter())
        .filter(|name| fonts.is_approximate(name))
        .collect();
    if !approximate.is_empty() {
        let examples: Vec<_> = approximate
            .iter()
            .take(3)
            .map(|name| format!("{name:?}"))
            .collect();
        report(Finding::Note(format!(
            "fonts: drawn only approximately, because only the built-in bitmap font has their letters: {} of {} class \
             names, such as {}; add a font to screen.fonts",
            approximate.len(),
            classes.len(),
            examples.join(", ")
        )));
    }
    fonts
}

/// Does not create the folder: it would belong to the current user instead of the appliance's.
fn check_log(log: &LogConfig) -> Result<String, String> {
    let folder = &log.folder;
    let checked = if folder.exists() {
        check_folder(folder, Access::Create)
    } else {
        // `run` creates what is missing.
        let existing = folder.ancestors().find(|folder| folder.exists());
        check_folder(existing.unwrap_or(Path::new(".")), Access::Create)
    };
    checked.map_err(|reason| format!("log.folder: {}: {reason}", folder.display()))?;
    Ok(format!(
        "log: {}, at most {} MB",
        folder.display(),
        log.megabytes
    ))
}

/// The address is not listened on: the running appliance may do so.
#[cfg(feature = "web")]
fn check_web(web: &WebConfig) -> Result<String, String> {
    crate::web::options(web)?;
    Ok(format!("web: http://{}/", web.listen))
}

#[cfg(not(feature = "web"))]
fn check_web(_: &WebConfig) -> Result<String, String> {
    Err(
        "web: this pinhole-firmware was built without the Cargo feature web; build it with --features web, or remove \
         the table"
            .into(),
    )
}

#[cfg(feature = "mqtt")]
fn check_mqtt(mqtt: &MqttConfig, bundle: Option<&TestedBundle>, report: &mut dyn FnMut(Finding)) {
    use std::os::unix::fs::MetadataExt;

    report_result(
        (crate::mqtt::Publisher::check(mqtt).map_err(|e| e.to_string())).map(|()| {
            format!(
                "mqtt: {} port {}{}, topic {}, client {}",
                mqtt.host,
                mqtt.port,
                if mqtt.tls.is_some() { " with TLS" } else { "" },
                mqtt.topic,
                mqtt.client_id()
            )
        }),
        report,
    );
    if let Some(home_assistant) = mqtt.home_assistant.as_ref().filter(|h| h.enabled)
        && let Some(bundle) = bundle
    {
        let classes = &bundle.classifier.manifest().classes;
        let checked = home_assistant.check_classes(classes);
        report_result(
            (checked.map_err(|e| e.to_string())).map(|()| {
                format!(
                    "mqtt.home_assistant: announced as {:?} on {}",
                    home_assistant.name,
                    crate::mqtt::Publisher::announcement_topic(mqtt)
                )
            }),
            report,
        );
    }
    if let Some(hint) = crate::mqtt::tls_hint(mqtt) {
        report(Finding::Note(format!("mqtt.port: {hint}")));
    }
    let readable =
        |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0);
    for (field, path) in mqtt.secrets().filter(|(_, path)| readable(path)) {
        let path = path.display();
        report(Finding::Note(format!(
            "{field}: warning: every user of this machine can read {path}; sudo chown root:pinhole {path} && sudo chmod \
             640 {path}"
        )));
    }
}

#[cfg(not(feature = "mqtt"))]
fn check_mqtt(_: &MqttConfig, _: Option<&TestedBundle>, report: &mut dyn FnMut(Finding)) {
    report(Finding::Error(
        "mqtt: this pinhole-firmware was built without the Cargo feature mqtt; build it with --features mqtt, or \
         remove the table"
            .into(),
    ));
}

/// Shows a test screen.
fn check_display(
    config: &ApplianceConfig,
    bundle: Option<&TestedBundle>,
    fonts: &mut Fonts,
) -> Result<String, String> {
    let opened = config.display.open();
    let Some(mut panel) = opened.map_err(|e| format!("display: {e}"))? else {
        return Ok("display: none".into());
    };
    let step = |name, result: Option<String>| BootStep { name, result };
    let tested = bundle.map(|bundle| format!("{} of {}", bundle.tested, bundle.tested));
    let loaded = bundle.map(|bundle| format!("{:.1} s", bundle.load_time.as_secs_f64()));
    let screen = Screen::Boot(BootScreen {
        bundle: match bundle {
            Some(bundle) => bundle.classifier.manifest().model.name.clone(),
            None => "no bundle".into(),
        },
        steps: vec![
            step("bundle", loaded),
            step("self-test", tested),
            step("display", Some("works".into())),
        ],
    });
    let size = panel.size();
    let mut canvas = Canvas::new(size);
    let monochrome = panel.is_monochrome();
    draw(&screen, &mut canvas, fonts, monochrome, Duration::ZERO);
    panel.show(&canvas).map_err(|e| format!("display: {e}"))?;
    Ok(format!(
        "display: {} x {} pixels; it shows a test screen",
        size.width, size.height
    ))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_are_found_as_the_system_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for (name, mode) in [("camera", 0o755), ("data", 0o644)] {
            std::fs::write(bin.join(name), "").unwrap();
            std::fs::set_permissions(bin.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let path = std::env::join_paths([Path::new("/nowhere"), &bin]).unwrap();
        let find = |program| find_program(program, folder.path(), Some(&path));
        assert_eq!(find("camera"), Ok(bin.join("camera")));
        assert_eq!(find("./bin/camera"), Ok(folder.path().join("./bin/camera")));
        assert!(
            find("data")
                .unwrap_err()
                .contains("must be able to execute")
        );
        assert!(find("./camera").unwrap_err().contains("No such file"));
        assert!(find("./bin").unwrap_err().contains("found a folder"));
        assert!(
            find("rpicam-vid")
                .unwrap_err()
                .contains("package rpicam-apps")
        );
    }
}
