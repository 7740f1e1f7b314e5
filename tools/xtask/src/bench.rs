//! Benchmarks: the core beside its primitives, and sign-ins through everything.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::build::{self, Profile};
use crate::shell;

/// Runs them and prints a table, or one JSON object.
pub(crate) fn run(quick: bool, as_json: bool) -> Result<()> {
    eprintln!("Building release programs");
    build::development(Profile::Release)?;
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--locked", "--package", "keyfold-tests", "--bench", "core", "--"]);
    if quick {
        cargo.args(["--warm-up-time", "0.5", "--measurement-time", "1"]);
    }
    let mut end_to_end = shell::cargo();
    end_to_end.args(["bench", "--locked", "--quiet", "--package", "keyfold-tests"]);
    end_to_end.args(["--bench", "end_to_end"]);
    end_to_end.env("KEYFOLD_BENCH_SECONDS", if quick { "2" } else { "10" });
    // An earlier run's results must not pass for this one's.
    if results().exists() {
        fs::remove_dir_all(results())?;
    }
    // What criterion prints is for people, and would mix with the result.
    shell::read(&mut cargo)?;
    let last = shell::read(&mut end_to_end)?;
    let last = last.lines().last().context("the end-to-end benchmark printed nothing")?;
    let end_to_end: Value = serde_json::from_str(last).context(last.to_owned())?;
    // Slow, and not disturbed by a busy machine.
    let counted = !quick && shell::has("valgrind");
    let result = json!({
        "core": {
            "assert": pair("assert", counted)?,
            "create": pair("create", counted)?,
            "session_open": pair("session_open", counted)?,
        },
        "end_to_end": end_to_end,
        "sync": {"page_of_64_us": microseconds("sync/page of 64")?},
    });
    if as_json {
        println!("{result}");
    } else {
        table(&result);
    }
    Ok(())
}

fn pair(name: &str, counted: bool) -> Result<Value> {
    let (core, primitives) = (format!("{name}/core"), format!("{name}/primitives"));
    let (us, primitives_us) = (microseconds(&core)?, microseconds(&primitives)?);
    let mut pair = json!({"us": us, "primitives_us": primitives_us, "ratio": us / primitives_us});
    if counted {
        let (core, primitives) = (instructions(&core)?, instructions(&primitives)?);
        pair["instructions"] = core.into();
        pair["primitives_instructions"] = primitives.into();
        pair["instructions_ratio"] = (core / primitives).into();
    }
    Ok(pair)
}

/// Instructions of one run of a case: what ten more runs add under callgrind.
fn instructions(case: &str) -> Result<f64> {
    let count = |times: u32| {
        let mut cargo = shell::cargo();
        cargo.args(["bench", "--locked", "--quiet", "--package", "keyfold-tests"]);
        cargo.args(["--bench", "core"]).env("KEYFOLD_COUNT", format!("{case} {times}"));
        let runner = "valgrind --tool=callgrind --callgrind-out-file=/dev/null --log-fd=1";
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
        let said = shell::read(&mut cargo)?;
        let found =
            said.split("Collected : ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let found = found.with_context(|| format!("valgrind counted nothing: {said}"))?;
        found.parse::<f64>().with_context(|| found.to_owned())
    };
    Ok((count(12)? - count(2)?) / 10.0)
}

/// Where criterion leaves its results.
fn results() -> PathBuf {
    shell::target().join("criterion")
}

/// Criterion's median.
fn microseconds(benchmark: &str) -> Result<f64> {
    // Criterion's names of folders.
    let folder = results().join(benchmark.replace('/', "_"));
    let path = folder.join("new/estimates.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let estimates: Value = serde_json::from_str(&text)?;
    let nanoseconds = estimates["median"]["point_estimate"].as_f64();
    Ok(nanoseconds.with_context(|| format!("no median in {}", path.display()))? / 1000.0)
}

/// What the core may cost, as a multiple of its primitives.
const TARGETS: [(&str, f64); 3] = [("assert", 1.10), ("create", 1.10), ("session_open", 1.15)];

fn table(result: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let heads = ["in the core", "µs", "primitives", "ratio", "target", "ratio in instructions"];
    let [name, us, primitives, ratio, target, instructions] = heads;
    println!("{name:<16}{us:>10}{primitives:>14}{ratio:>8}{target:>9}   {instructions}");
    for (name, target) in TARGETS {
        let row = &result["core"][name];
        println!(
            "{name:<16}{:>10.1}{:>14.1}{:>8.2}{target:>9.2}   {}",
            number(&row["us"]),
            number(&row["primitives_us"]),
            number(&row["ratio"]),
            row["instructions_ratio"].as_f64().map_or("-".into(), |ratio| format!("{ratio:.2}"))
        );
    }
    println!("{:<16}{:>10.1}", "sync, 64 events", number(&result["sync"]["page_of_64_us"]));
    let all = &result["end_to_end"];
    println!("\nend to end: {:.0} sign-ins/s", number(&all["sign_ins_per_s"]));
    println!(
        "at half that load: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
        number(&all["p50_ms"]),
        number(&all["p99_ms"]),
        number(&all["p999_ms"])
    );
    println!("load generator: {}", all["load_generator"].as_str().unwrap_or_default());
    let processors = number(&all["processors"]);
    println!(
        "bound by {processors} processors, all busy: {:.0} µs of one for each sign-in, the core's among them",
        processors * 1e6 / number(&all["sign_ins_per_s"])
    );
}
