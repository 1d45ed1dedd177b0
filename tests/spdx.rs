//! SPDX 2.3, <https://spdx.github.io/spdx-spec/v2.3/>.

use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::components::{Component, Components};
use crate::root;

/// The bill of materials. SPDX asks for a time: that of `SOURCE_DATE_EPOCH` (seconds), or of the last commit.
///
/// # Errors
///
/// When there is neither.
pub fn write(tree: &Components) -> Result<String, String> {
    let crates = &tree.crates;
    let packages: Vec<Value> = crates.iter().map(package).collect();
    // A name of its own for every content.
    let digest = Sha256::digest(json!(packages).to_string());
    let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let uses = crates.iter().flat_map(|of| of.uses.iter().map(move |&at| relation(of, &crates[at])));
    let described = crates.first().map(|own| {
        json!({ "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": id(own) })
    });
    let value = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{} for {}", tree.program, tree.target),
        "documentNamespace": format!("https://spdx.org/spdxdocs/{}-{digest}", tree.program),
        "creationInfo": { "created": created()?, "creators": [concat!("Tool: kdh-sbom-", env!("CARGO_PKG_VERSION"))] },
        "packages": packages,
        "relationships": described.into_iter().chain(uses).collect::<Vec<_>>(),
    });
    Ok(format!("{value:#}\n"))
}

fn package(of: &Component) -> Value {
    let mut value = json!({
        "SPDXID": id(of),
        "name": of.name,
        "versionInfo": of.version,
        "downloadLocation": if of.is_own() {
            "NOASSERTION".to_owned()
        } else {
            format!("https://crates.io/api/v1/crates/{}/{}/download", of.name, of.version)
        },
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": of.licence,
        "copyrightText": "NOASSERTION",
        "summary": of.description,
        "externalRefs": [
            { "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": of.purl() },
        ],
    });
    if !of.is_own() {
        value["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": of.sha256 }]);
    }
    value
}

fn relation(of: &Component, used: &Component) -> Value {
    if used.linked {
        json!({ "spdxElementId": id(of), "relationshipType": "DEPENDS_ON", "relatedSpdxElement": id(used) })
    } else {
        json!({ "spdxElementId": id(used), "relationshipType": "BUILD_DEPENDENCY_OF", "relatedSpdxElement": id(of) })
    }
}

/// Letters, digits, dots and hyphens are allowed.
fn id(of: &Component) -> String {
    let name = format!("{}-{}", of.name, of.version);
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
    format!("SPDXRef-{}", name.chars().map(letter).collect::<String>())
}

fn created() -> Result<String, String> {
    let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(epoch) => epoch,
        Err(_) => {
            let output = Command::new("git").current_dir(root()).args(["log", "-1", "--format=%ct"]).output();
            let output = output.map_err(|error| format!("git: {error}; set SOURCE_DATE_EPOCH"))?;
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    };
    let seconds: i64 =
        epoch.trim().parse().map_err(|_| "no last commit; set SOURCE_DATE_EPOCH to seconds since 1970")?;
    Ok(utc(seconds))
}

/// `YYYY-MM-DDThh:mm:ssZ`; the calendar is Hinnant's `civil_from_days`.
fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
