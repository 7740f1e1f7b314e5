//! Benchmarks: the core beside its primitives, and sign-ins through everything.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::build::{self, Profile};
use crate::{image, shell};

/// Runs them and prints a table, or one JSON object.
pub(crate) fn run(quick: bool, as_json: bool) -> Result<()> {
    eprintln!("Building release programs");
    build::development(Profile::Release)?;
    image::build("--development")?;
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
            "charge": pair("charge", counted)?,
            "commit": pair("commit", counted)?,
            "settle": pair("settle", counted)?,
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
const TARGETS: [(&str, Option<f64>); 6] = [
    ("assert", Some(1.10)),
    ("create", Some(1.10)),
    ("session_open", Some(1.15)),
    ("charge", None),
    ("commit", None),
    ("settle", None),
];

/// Sign-ins per second that two processors shall serve.
const SIGN_INS: f64 = 10_000.0;

fn table(result: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let heads = ["in the core", "µs", "primitives", "ratio", "target", "ratio in instructions"];
    let [name, us, primitives, ratio, target, instructions] = heads;
    println!("{name:<16}{us:>10}{primitives:>14}{ratio:>8}{target:>9}   {instructions}");
    for (name, target) in TARGETS {
        let row = &result["core"][name];
        let target = target.map_or("-".into(), |target| format!("{target:.2}"));
        println!(
            "{name:<16}{:>10.1}{:>14.1}{:>8.2}{target:>9}   {}",
            number(&row["us"]),
            number(&row["primitives_us"]),
            number(&row["ratio"]),
            row["instructions_ratio"].as_f64().map_or("-".into(), |ratio| format!("{ratio:.2}"))
        );
    }
    println!("{:<16}{:>10.1}", "sync, 64 events", number(&result["sync"]["page_of_64_us"]));
    let all = &result["end_to_end"];
    let rate = number(&all["sign_ins_per_s"]);
    println!("\nend to end: {rate:.0} sign-ins/s, target {SIGN_INS:.0}");
    println!(
        "at half that load: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
        number(&all["p50_ms"]),
        number(&all["p99_ms"]),
        number(&all["p999_ms"])
    );
    for row in all["recoveries"].as_array().into_iter().flatten() {
        println!(
            "receipts after {:>3.0} ms: {:>6.0} recoveries/s, p50 {:>7.1} ms",
            number(&row["receipt_ms"]),
            number(&row["per_s"]),
            number(&row["p50_ms"])
        );
    }
    links(all);
    println!("load generator: {}", all["load_generator"].as_str().unwrap_or_default());
    bound(all);
}

/// Each way to an enclave, with many frames in flight and with one for each link.
fn links(all: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    println!(
        "\n{:<26}{:>12}{:>14}{:>16}{:>14}",
        "link", "sign-ins/s", "µs of CPU", "one each: /s", "µs of CPU"
    );
    for row in all["links"].as_array().into_iter().flatten() {
        let own = |load: &str| {
            let each = &row[load]["processor_us"];
            (
                number(&row[load]["sign_ins_per_s"]),
                number(&each["host"]) + number(&each["enclaves"]),
            )
        };
        let ((many, many_us), (one, one_us)) = (own("many"), own("one_each"));
        let name = row["link"].as_str().unwrap_or_default();
        println!("{name:<26}{many:>12.0}{many_us:>14.0}{one:>16.0}{one_us:>14.0}");
        if let Some(seconds) = row["boot_to_serving_s"].as_f64() {
            println!("  from its start to serving: {seconds:.1} s");
        }
    }
}

/// What the rate is bound by, and what more would take.
fn bound(all: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let (rate, processors) = (number(&all["sign_ins_per_s"]), number(&all["processors"]));
    let each = &all["processor_us_per_sign_in"];
    let [host, enclaves, generator] =
        ["host", "enclaves", "load_generator"].map(|name| number(&each[name]));
    println!(
        "processor time of a sign-in: host {host:.0} µs, enclaves {enclaves:.0} µs, load generator \
         {generator:.0} µs; {:.0} % of {processors} processors busy",
        rate * (host + enclaves + generator) / processors / 1e4
    );
    let own = host + enclaves;
    println!(
        "at that cost {processors} processors of their own serve {:.0}/s, and {SIGN_INS:.0}/s take {:.1} \
         of them; links share nothing, so more processors serve as many times more",
        processors * 1e6 / own,
        SIGN_INS * own / 1e6
    );
}
