//! The OpenAPI 3.1 document, put together from the table of routes and the schemas of their documents.
//! OpenAPI 3.1 takes JSON Schema 2020-12 as it is, which is what schemars writes.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::model::ApiError;
use super::routes::{Access, Output, Param, Route, routes};

/// Where the schemas are in the document.
const SCHEMAS: &str = "/components/schemas";

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    let error = generator.subschema_for::<ApiError>();
    for route in routes() {
        let operation = operation(&route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vswitchd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of vswitchd: HTTP/1.1 on its Unix socket.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "http://localhost", "description": "The Unix socket, /run/vswitch/ctl.sock unless told otherwise." }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": {
                "error": {
                    "description": "It was not done; the sentence says why and what to do.",
                    "content": { "application/json": { "schema": error } },
                },
            },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let (kind, schema) = match route.output {
        Output::Json(schema) => ("application/json", json!(schema(generator))),
        Output::Other(kind) => (kind, json!({ "type": "string" })),
    };
    let description = match route.access {
        Access::Read => "For everybody who reaches the socket.",
        Access::Change => "For root, the daemon's own user and members of the socket's group.",
    };
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.help,
        "description": description,
        "responses": {
            "200": { "description": "Done.", "content": { kind: { "schema": schema } } },
            "default": { "$ref": "#/components/responses/error" },
        },
    });
    let parameters: Vec<Value> = path_names(route.path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .chain(route.query.iter().map(query_parameter))
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if let Some(input) = route.input {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": input(generator) } },
        });
    }
    operation
}

fn query_parameter(param: &Param) -> Value {
    json!({
        "name": param.name,
        "in": "query",
        "description": param.help,
        "schema": { "type": param.kind },
    })
}

fn path_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

/// `get-ports-name-stats`
fn operation_id(route: &Route) -> String {
    let words = route
        .path
        .split(['/', '.'])
        .map(|segment| segment.trim_matches(['{', '}']))
        .filter(|segment| !segment.is_empty() && *segment != "v1");
    let mut id = route.method.as_str().to_lowercase();
    for word in words {
        id.push('-');
        id.push_str(word);
    }
    id
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_route_is_described_once() {
        let document = document();
        let mut ids = HashSet::new();
        for route in routes() {
            let method = route.method.as_str().to_lowercase();
            let operation = &document["paths"][route.path][&method];
            assert!(operation.is_object(), "{method} {}", route.path);
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{id} is there twice");
        }
        let described: usize = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|path| path.as_object().unwrap().len())
            .sum();
        assert_eq!(described, routes().len());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(references.len() > routes().len());
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
