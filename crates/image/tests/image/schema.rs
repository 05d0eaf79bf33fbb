//! All JSON in the image is valid according to the OCI image specification, version 1.1. The schemas here are
//! shorter forms of those in `schema/` of <https://github.com/opencontainers/image-spec>. They are stricter:
//! they allow only fields that the specification has, one media type for an index and one for a manifest, and
//! one digest algorithm.

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::harness::Dist;

/// content-descriptor.json and defs-descriptor.json
fn descriptor() -> Value {
    let media_type =
        "^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$";
    json!({
        "type": "object",
        "required": ["mediaType", "size", "digest"],
        "additionalProperties": false,
        "properties": {
            "mediaType": { "type": "string", "pattern": media_type },
            "size": { "type": "integer", "minimum": 0, "maximum": i64::MAX },
            // The image uses only this one of the registered algorithms.
            "digest": { "type": "string", "pattern": "^sha256:[a-f0-9]{64}$" },
            "urls": { "type": "array", "items": { "type": "string", "format": "uri" } },
            "data": { "type": "string" },
            "artifactType": { "type": "string", "pattern": media_type },
            "annotations": annotations(),
            "platform": {
                "type": "object",
                "required": ["architecture", "os"],
                "additionalProperties": false,
                "properties": {
                    "architecture": { "type": "string" },
                    "os": { "type": "string" },
                    "os.version": { "type": "string" },
                    "os.features": strings(),
                    "variant": { "type": "string" },
                },
            },
        },
    })
}

/// defs.json
fn annotations() -> Value {
    json!({
        "type": "object",
        "propertyNames": { "pattern": "^[a-z0-9]+([.-][a-z0-9]+)*(/[a-z0-9-]+)?$" },
        "additionalProperties": { "type": "string" },
    })
}

fn strings() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

/// image-index-schema.json
fn index() -> Value {
    json!({
        "type": "object",
        "required": ["schemaVersion", "manifests"],
        "additionalProperties": false,
        "properties": {
            "schemaVersion": { "const": 2 },
            "mediaType": { "const": "application/vnd.oci.image.index.v1+json" },
            "artifactType": { "type": "string" },
            "subject": descriptor(),
            "manifests": { "type": "array", "items": descriptor() },
            "annotations": annotations(),
        },
    })
}

/// image-manifest-schema.json
fn manifest() -> Value {
    json!({
        "type": "object",
        "required": ["schemaVersion", "config", "layers"],
        "additionalProperties": false,
        "properties": {
            "schemaVersion": { "const": 2 },
            "mediaType": { "const": "application/vnd.oci.image.manifest.v1+json" },
            "artifactType": { "type": "string" },
            "config": descriptor(),
            "subject": descriptor(),
            "layers": { "type": "array", "minItems": 1, "items": descriptor() },
            "annotations": annotations(),
        },
    })
}

/// config-schema.json
fn config() -> Value {
    let empty_objects = json!({ "type": "object", "additionalProperties": { "type": "object" } });
    json!({
        "type": "object",
        "required": ["architecture", "os", "rootfs"],
        "additionalProperties": false,
        "properties": {
            "created": { "type": "string", "format": "date-time" },
            "author": { "type": "string" },
            "architecture": { "type": "string" },
            "variant": { "type": "string" },
            "os": { "type": "string" },
            "os.version": { "type": "string" },
            "os.features": strings(),
            "config": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "User": { "type": "string" },
                    "ExposedPorts": empty_objects,
                    "Env": { "type": "array", "items": { "type": "string", "pattern": "^.+=.*$" } },
                    "Entrypoint": strings(),
                    "Cmd": strings(),
                    "Volumes": empty_objects,
                    "WorkingDir": { "type": "string" },
                    "Labels": { "type": "object", "additionalProperties": { "type": "string" } },
                    "StopSignal": { "type": "string" },
                    "ArgsEscaped": { "type": "boolean" },
                },
            },
            "rootfs": {
                "type": "object",
                "required": ["diff_ids", "type"],
                "additionalProperties": false,
                "properties": {
                    "diff_ids": {
                        "type": "array",
                        "items": { "type": "string", "pattern": "^sha256:[a-f0-9]{64}$" },
                    },
                    "type": { "const": "layers" },
                },
            },
            "history": { "type": "array", "items": { "type": "object" } },
        },
    })
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::options().should_validate_formats(true).build(schema).unwrap()
}

/// Asserts that the bytes are JSON and match the schema.
fn assert_is_valid(bytes: &[u8], schema: &Value) {
    let value: Value = serde_json::from_slice(bytes).unwrap();
    let validator = validator(schema);
    let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}: {value}");
}

#[test]
fn all_json_is_valid() {
    let dist = Dist::stand_in(&["--platform", "all"]);
    assert_is_valid(&dist.read("oci/index.json"), &index());
    let [image, referrers, sbom, provenance] = &dist.entries()[..] else { panic!("four entries") };
    assert_is_valid(&dist.blob(image), &index());
    assert_is_valid(&dist.blob(referrers), &index());
    assert_is_valid(&dist.blob(sbom), &manifest());
    assert_is_valid(&dist.blob(provenance), &manifest());
    for descriptor in dist.index().manifests() {
        assert_is_valid(&dist.blob(descriptor), &manifest());
    }
    for image in dist.images() {
        assert_is_valid(&dist.blob(image.manifest.config()), &config());
    }
}

/// The schema of an index rejects invalid JSON.
#[test]
fn invalid_json_is_rejected() {
    let dist = Dist::stand_in(&["--platform", "linux/arm/v7"]);
    let good: Value = serde_json::from_slice(&dist.blob(&dist.entries()[0])).unwrap();
    let validator = validator(&index());
    assert!(validator.is_valid(&good));
    for (place, value) in [
        ("/schemaVersion", json!(1)),
        ("/mediaType", json!("application/vnd.oci.image.manifest.v1+json")),
        ("/manifests", json!({})),
        ("/manifests/0/digest", json!("sha256:abc")),
        ("/manifests/0/size", json!(-1)),
        ("/manifests/0/platform", json!({ "os": "linux" })),
        ("/annotations", json!({ "a": 1 })),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        assert!(!validator.is_valid(&bad), "{place}");
    }
}
