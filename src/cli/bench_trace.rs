//! A recorded step in Chrome's trace format, which Perfetto and `chrome://tracing` open.

use ckd_kernels::trace::{Span, Track};
use serde_json::{Value, json};

/// The document of `spans`: a process for the program and one for the GPU, times in microseconds.
pub(super) fn document(spans: &[Span]) -> Value {
    const HOST: u32 = 1;
    const GPU: u32 = 2;
    let name = |process: u32, name: &str| json!({"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}});
    let event = |span: &Span| {
        let (process, thread) = match span.track {
            Track::Host(thread) => (HOST, thread),
            Track::Gpu => (GPU, 1),
        };
        json!({
            "name": span.name,
            "ph": "X",
            "pid": process,
            "tid": thread,
            "ts": span.begin.as_secs_f64() * 1e6,
            "dur": span.took.as_secs_f64() * 1e6,
        })
    };
    let has_gpu = spans.iter().any(|span| span.track == Track::Gpu);
    let names = [name(HOST, "host")].into_iter().chain(has_gpu.then(|| name(GPU, "GPU")));
    let events: Vec<Value> = names.chain(spans.iter().map(event)).collect();
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn spans_are_complete_events_in_microseconds_by_processor() {
        let span = |track, begin, took| Span {
            name: "conv::Forward",
            track,
            begin: Duration::from_micros(begin),
            took: Duration::from_nanos(took),
        };
        let document = document(&[span(Track::Host(3), 5, 1500), span(Track::Gpu, 7, 20_000)]);
        let events = document["traceEvents"].as_array().unwrap();
        assert_eq!(events[0]["args"]["name"], "host");
        assert_eq!(events[1]["args"]["name"], "GPU");
        let fields = |event: &Value| ["pid", "tid", "ts", "dur"].map(|key| event[key].as_f64().unwrap());
        assert_eq!(fields(&events[2]), [1.0, 3.0, 5.0, 1.5]);
        assert_eq!(fields(&events[3]), [2.0, 1.0, 7.0, 20.0]);
        assert!(events[2..].iter().all(|event| event["ph"] == "X" && event["name"] == "conv::Forward"));
    }
}
