//! CycloneDX 1.6, <https://cyclonedx.org/docs/1.6/json/>.

use serde_json::{Value, json};

use crate::components::{Component, Components};

/// The bill of materials, without serial number and time, so that the same sources give the same bytes.
pub fn write(tree: &Components) -> String {
    let crates = &tree.crates;
    let value = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": tree.program,
                "version": crates.first().map(|own| own.version.as_str()),
                "bom-ref": crates.first().map(Component::purl),
                "properties": [{ "name": "kdh:target", "value": tree.target }],
            },
        },
        "components": crates.iter().skip(1).map(component).collect::<Vec<_>>(),
        "dependencies": crates.iter().map(|of| {
            json!({ "ref": of.purl(), "dependsOn": of.uses.iter().map(|&at| crates[at].purl()).collect::<Vec<_>>() })
        }).collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn component(of: &Component) -> Value {
    let mut value = json!({
        "type": "library",
        "bom-ref": of.purl(),
        "name": of.name,
        "version": of.version,
        "description": of.description,
        // What is only run while the program is built is not in it.
        "scope": if of.linked { "required" } else { "excluded" },
        "licenses": [{ "expression": of.licence }],
        "purl": of.purl(),
    });
    if !of.is_own() {
        value["hashes"] = json!([{ "alg": "SHA-256", "content": of.sha256 }]);
    }
    if !of.repository.is_empty() {
        value["externalReferences"] = json!([{ "type": "vcs", "url": of.repository }]);
    }
    value
}
