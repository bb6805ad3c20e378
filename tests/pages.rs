//! Events on standard output, the page with its pictures, `watch`: a run as persons and scripts see it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::tiny::{Tiny, assert_ended, assert_mentions};

/// A teacher, a student alone and a student distilled in `runs/distilled`, and the events of their training.
fn trained() -> (Tiny, Vec<Value>) {
    let tiny = Tiny::new();
    let sets = ["--set", "train.compare_alone=true", "--set", "train.share_steps=1"];
    let args = [["train", "distilled.toml", "--json", "--quiet"].as_slice(), &sets].concat();
    let output = tiny.run_program(&args);
    assert_ended(&output, 0, &[]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events = lines.lines().map(|line| serde_json::from_str(line).unwrap());
    let events = events.collect();
    (tiny, events)
}

#[test]
fn a_run_of_three_parts_tells_its_events_and_shows_its_networks_side_by_side() {
    let (tiny, events) = trained();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let runs: Vec<&Value> = named("begin").iter().map(|event| &event["run"]).collect();
    assert_eq!(runs, ["teacher", "student alone", "student distilled"]);
    assert_eq!(named("end").iter().filter(|end| end["how"] == "finished").count(), 3);
    for step in named("step") {
        let sum: f64 = step["losses"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
        assert!((sum - step["loss"].as_f64().unwrap()).abs() < 1e-9, "{step}");
        assert!(step["step"].as_u64() <= step["total"].as_u64() && step["lr"].as_f64() > Some(0.0), "{step}");
    }
    assert!(named("eval").iter().all(|eval| eval["eval"].as_array().is_some_and(|own| own.len() == 12)));
    let last = events.last().unwrap();
    assert_eq!((&last["event"], last.get("run")), (&"finished".into(), None));
    assert_eq!(last["summary"], tiny.json("runs/distilled/summary.json"));

    // Of the worst and the best image, the truth and three networks.
    let shown = tiny.json("runs/distilled/shown/index.json");
    let images = shown["images"].as_array().unwrap();
    assert!(images.iter().any(|image| image["kind"] == "worst"), "{shown}");
    let titles = |panels: &Value| -> Vec<String> {
        let panels = panels.as_array().unwrap().iter();
        panels.map(|panel| panel["title"].as_str().unwrap().to_owned()).collect()
    };
    for image in images {
        let networks = ["ground truth", "teacher", "student alone", "student distilled"];
        assert_eq!(titles(&image["panels"]), networks);
        for panel in image["panels"].as_array().unwrap() {
            let path = tiny.path("runs/distilled/shown").join(panel["file"].as_str().unwrap());
            assert_eq!(image::open(path).unwrap().width(), 450);
        }
    }
    // The evaluation counts on each image what its picture says.
    let evaluation = fs::read_dir(tiny.path("runs/distilled/eval")).unwrap();
    let last = evaluation.map(|entry| entry.unwrap().path()).max().unwrap();
    let ranked: Value = serde_json::from_str(&fs::read_to_string(last).unwrap()).unwrap();
    let worst = &ranked["images"]["worst"][0];
    let told = format!("{} found, {} false, {} missed", worst["hits"], worst["false"], worst["missed"]);
    assert_eq!(images[0]["panels"][3]["told"], told);
    let networks = ["teacher", "student before", "student alone", "student distilled"];
    assert!(shown["maps"].as_array().unwrap().iter().all(|map| titles(&map["panels"]) == networks));
    let alignment = &shown["alignment"];
    assert_eq!(alignment["models"].as_array().unwrap()[..], networks[1..]);
    assert_eq!(alignment["levels"].as_array().map(Vec::len), shown["maps"].as_array().map(Vec::len));
    for level in alignment["levels"].as_array().unwrap() {
        let own = level[1].as_array().unwrap().iter().map(|value| value.as_f64().unwrap());
        assert!(own.clone().all(|value| (0.0..=1.0 + 1e-4).contains(&value)), "{level}");
        assert!(own.clone().any(|value| value > 0.0), "{level}");
    }

    let page = fs::read_to_string(tiny.path("runs/distilled/report.html")).unwrap();
    assert_mentions(
        &page,
        &[
            "teacher of distilled",
            "Images of distilled",
            "Feature maps of distilled",
            "Likeness of distilled",
            "Whose gradient",
            "student and losses",
        ],
    );
    assert!(!page.contains("<script") && page.len() < 3_000_000);

    watched(&tiny);
}

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The page that is served follows the files of the run.
fn watched(tiny: &Tiny) {
    let mut program = tiny.program(&["watch", "runs/distilled"]);
    let mut server = Server(program.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let page = get("/");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.trim_end().ends_with("</html>"), "{line}");
    assert_mentions(&page, &["<script>", "Images of distilled", "student distilled"]);
    assert!(get("/../distilled/config.toml").starts_with("HTTP/1.1 404 "));
    let before = get("/state");
    assert_eq!(get("/state"), before);
    let log = tiny.text("runs/distilled/log.jsonl");
    let noted = r#"{"step":2,"bad_image":"broken.png","reason":"no image"}"#;
    tiny.write("runs/distilled/log.jsonl", &(log + noted + "\n"));
    assert_ne!(get("/state"), before);
    assert!(get("/").contains("1 bad images"));
}

#[test]
fn watch_refuses_what_is_no_folder_and_a_port_that_is_taken() {
    let tiny = Tiny::new();
    assert_ended(&tiny.run_program(&["watch", "runs/none"]), 2, &["there is no folder runs/none"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert_ended(&tiny.run_program(&["watch", ".", "--port", &port]), 2, &["name another with --port"]);
}
