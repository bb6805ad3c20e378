//! `ckd-det watch RUN [--port P]`: the page of a run on 127.0.0.1, which follows the run.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use super::{UsageError, say};
use crate::report::page::{Run, page};
use crate::report::run_folder::{RunFolder, RunFolderError};
use crate::report::serve::{Reply, listen, serve};

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The page is that of `ckd-det report`, and shows what the run has logged so far. It is served to this machine alone, until \
Ctrl-C. From another machine: ssh -L 8000:127.0.0.1:8000 HOST.

Examples:
  ckd-det watch runs/quickstart
  ckd-det watch runs/quickstart --port 8000")]
pub struct Args {
    /// The folder of a run, which may not have begun
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The port to serve the page at; 0 takes a free one
    #[arg(long, value_name = "P", default_value_t = 0)]
    port: u16,
}

/// Puts a newer page in the place of an older one, every two seconds where there is one; what is open stays open.
const FOLLOW: &str = r#"<script>
let seen = null;
setInterval(async () => {
  try {
    const state = await (await fetch("/state")).text();
    if (seen !== null && state !== seen) {
      const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
      const open = [...document.querySelectorAll("details")].map(part => part.open);
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.querySelectorAll("details").forEach((part, place) => part.open = open[place] ?? false);
      document.title = page.title;
    }
    seen = state;
  } catch {
    document.title = "ended: " + document.title.replace(/^ended: /, "");
  }
}, 2000);
</script>
"#;

/// Runs the verb.
///
/// # Errors
/// A folder that is none; a port that is taken.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if !args.run.is_dir() {
        let told = format!("there is no folder {}; name a run, see `ckd-det runs`", args.run.display());
        return Err(UsageError(told).into());
    }
    let listener = listen(args.port).map_err(|error| {
        UsageError(format!(
            "cannot listen at port {} of 127.0.0.1: {error}; name another with --port",
            args.port
        ))
    })?;
    let folder = RunFolder::at(&args.run);
    let made: Mutex<Option<(String, String)>> = Mutex::new(None);
    let answer = |path: &str| match path {
        "/" => Some(Reply::html(current(&folder, &made))),
        "/state" => Some(Reply::text(state(&folder))),
        _ => None,
    };
    let name = args.run.display();
    say(format!("{name}: http://{}/ (Ctrl-C ends)", listener.local_addr()?))?;
    Ok(serve(&listener, &answer)?)
}

/// The page of the run as it is now; it is made once for each state.
fn current(folder: &RunFolder, made: &Mutex<Option<(String, String)>>) -> String {
    let now = state(folder);
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    match &*made {
        Some((state, page)) if *state == now => page.clone(),
        _ => {
            let page = following(folder);
            *made = Some((now, page.clone()));
            page
        }
    }
}

/// The page, with the script by which it follows the run.
fn following(folder: &RunFolder) -> String {
    let page = match Run::with_parts(folder) {
        Ok(runs) => page(&runs),
        // A run that is about to begin, or that is being moved.
        Err(RunFolderError::NoRun { path }) => {
            waiting(&format!("No run has begun in {} yet.", path.display()))
        }
        Err(error) => waiting(&error.to_string()),
    };
    page.replacen("</body>", &(FOLLOW.to_owned() + "</body>"), 1)
}

/// A page without a run.
fn waiting(told: &str) -> String {
    let told = told.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>waiting</title>\
         <link rel=\"icon\" href=\"data:,\"></head>\n<body><main><p>{told}</p></main></body></html>\n"
    )
}

/// Sizes and times of the files that the page is made of.
fn state(folder: &RunFolder) -> String {
    let alone = folder.alone();
    let of = |run: &RunFolder| [run.log(), run.config(), run.outcome(), run.summary(), run.shown()];
    let files = of(folder).into_iter().chain(of(&alone));
    files.map(|path| file_state(&path)).collect::<Vec<_>>().join(" ")
}

fn file_state(path: &Path) -> String {
    let Ok(about) = std::fs::metadata(path) else { return "-".to_owned() };
    let time = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{}@{}", about.len(), time.unwrap_or_default().as_millis())
}
