//! AMD's key distribution: the chip's certificates by id and firmware, and nobody else's.

mod common;

use common::evidence::Chip;
use common::{get, start};
use keyfold_dev_cloud::{DevCloud, Failure, Mode, Service};
use reqwest::Response;

/// Of the chip's certificate: 64 bytes after AMD's OID for it.
fn hwid(cloud: &DevCloud) -> String {
    let chip = Chip::open(&cloud.endpoints().chip.dir);
    hex::encode(&chip.report(b"", |_| {})[0x1a0..0x1e0])
}

async fn ask(cloud: &DevCloud, path: &str) -> Response {
    get(format!("{}/vcek/v1/{path}", cloud.endpoints().kds.url)).await
}

#[tokio::test]
async fn the_chips_certificates_are_served_by_firmware() {
    let cloud = start("kds-vcek").await;
    let chip = Chip::open(&cloud.endpoints().chip.dir);
    let hwid = hwid(&cloud);
    for (file, firmware) in [
        ("vcek.pem", "blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"),
        ("vcek.pem", "ucodeSPL=219&snpSPL=24&teeSPL=0&blSPL=4"),
        ("vcek-older.pem", "blSPL=4&teeSPL=0&snpSPL=23&ucodeSPL=218"),
        ("vcek-newer.pem", "blSPL=4&teeSPL=0&snpSPL=25&ucodeSPL=220"),
    ] {
        for hwid in [hwid.clone(), hwid.to_uppercase()] {
            let answer = ask(&cloud, &format!("Milan/{hwid}?{firmware}")).await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.bytes().await.unwrap(), common::pem_der(&chip.pem(file)), "{file}");
        }
    }
    let answer = ask(&cloud, "Milan/cert_chain").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), chip.pem("ask.pem") + &chip.pem("ark.pem"));
    cloud.stop().await;
}

#[tokio::test]
async fn what_is_not_the_chips_is_not_found_and_what_is_malformed_refused() {
    let cloud = start("kds-refused").await;
    let hwid = hwid(&cloud);
    let firmware = "blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219";
    let other = format!("{}{}", if hwid.starts_with('0') { "1" } else { "0" }, &hwid[1..]);
    for (path, status) in [
        (format!("Milan/{hwid}?{firmware}"), 200),
        (format!("Milan/{other}?{firmware}"), 404),
        (format!("Genoa/{hwid}?{firmware}"), 404),
        (format!("Milan/{hwid}?{}", firmware.replace("219", "217")), 404),
        (format!("Milan/{hwid}?{}", firmware.replace("teeSPL=0", "teeSPL=1")), 404),
        ("Genoa/cert_chain".to_owned(), 404),
        (format!("Milan/{}?{firmware}", &hwid[2..]), 400),
        (format!("Milan/{hwid}"), 400),
        (format!("Milan/{hwid}?{}", firmware.replace("&snpSPL=24", "")), 400),
        (format!("Milan/{hwid}?{}", firmware.replace("219", "256")), 400),
        (format!("Milan/{hwid}?{firmware}&fmcSPL=0"), 400),
    ] {
        assert_eq!(ask(&cloud, &path).await.status(), status, "{path}");
    }
    cloud.fail(Failure::new(Service::Kds, Mode::Status(429), 1)).await.unwrap();
    let throttled = ask(&cloud, &format!("Milan/{hwid}?{firmware}")).await;
    assert_eq!(throttled.status(), 429);
    assert!(throttled.headers().contains_key("retry-after"));
    assert_eq!(ask(&cloud, &format!("Milan/{hwid}?{firmware}")).await.status(), 200);
    cloud.stop().await;
}
