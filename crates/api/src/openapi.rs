//! The OpenAPI document, built from the table of routes and the schemas of the bodies.

use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::routes::{self, Caller};

#[derive(OpenApi)]
#[openapi(components(schemas(
    crate::error::ErrorBody,
    crate::bodies::InitRequest,
    crate::bodies::JoinClusterRequest,
    crate::bodies::JoinRequest,
    crate::bodies::JoinResponse,
    crate::bodies::CertificateRequest,
    crate::bodies::CertificateResponse,
    crate::bodies::DeployRequest,
    crate::bodies::ScaleRequest,
    crate::bodies::UpdateNodeRequest,
    crate::bodies::SetRegistryRequest,
    crate::bodies::PutNetworkRequest,
    crate::bodies::CreateFileRequest,
    crate::bodies::PullRequest,
    crate::views::ClusterView,
    crate::views::MemberView,
    crate::views::LocalView,
    crate::views::TokensView,
    crate::views::NodeView,
    crate::views::ServiceView,
    crate::views::TaskView,
    crate::views::StackView,
    crate::views::StackDetail,
    crate::views::StackStatus,
    crate::views::DeployResponse,
    crate::views::PlanView,
    crate::views::Written,
    crate::views::ImageView,
    crate::views::RegistryView,
    crate::views::FileView,
    crate::views::NetworkView,
    crate::views::NetworkHostView,
    crate::views::HostNetworksView,
    crate::views::NetworkServiceView,
    crate::views::NetworkGuestView,
    crate::views::NetworkTaskView,
    crate::views::LogLine,
    crate::examination::ExamineRequest,
    crate::examination::HostExamination,
    crate::examination::ExaminationView,
)))]
struct Schemas;

/// The document, OpenAPI 3.1, of every route in [`routes::ALL`].
#[must_use]
pub fn document() -> Value {
    let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_else(|_| json!({}));
    let mut paths = Map::new();
    for route in routes::ALL {
        let mut operation = Map::new();
        operation.insert("summary".into(), json!(route.summary));
        operation.insert("operationId".into(), json!(operation_id(route)));
        operation.insert("tags".into(), json!([tag(route.caller)]));
        let parameters: Vec<Value> = parameters(route.path)
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        if !parameters.is_empty() {
            operation.insert("parameters".into(), Value::Array(parameters));
        }
        if let Some(request) = route.request {
            operation.insert(
                "requestBody".into(),
                json!({"required": true, "content": {"application/json": {"schema": reference(request)}}}),
            );
        }
        let mut answer = json!({"description": "Done"});
        if let Some(response) = route.response {
            answer["content"] = json!({"application/json": {"schema": reference(response)}});
        }
        operation.insert(
            "responses".into(),
            json!({
                "200": answer,
                "default": {
                    "description": "Refused or failed",
                    "content": {"application/json": {"schema": reference("ErrorBody")}}
                }
            }),
        );
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = Value::Object(operation);
    }
    document["paths"] = Value::Object(paths);
    document["info"] = json!({
        "title": "stack",
        "description": "The controllers' and hosts' REST interface. Every connection over the network is mutual TLS.",
        "version": env!("CARGO_PKG_VERSION"),
        "license": {"name": "Apache-2.0"}
    });
    document
}

fn reference(schema: &str) -> Value {
    match schema.strip_suffix("[]") {
        Some(item) => json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{item}")}}),
        None => json!({"$ref": format!("#/components/schemas/{schema}")}),
    }
}

fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

fn operation_id(route: &routes::Route) -> String {
    let words: Vec<&str> =
        route.path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty() && *word != "v1").collect();
    format!("{}_{}", route.method.to_ascii_lowercase(), words.join("_"))
}

const fn tag(caller: Caller) -> &'static str {
    match caller {
        Caller::Anyone => "open",
        Caller::Operator => "operator",
        Caller::Local => "local",
        Caller::Node => "node",
        Caller::Controller => "host",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_schema_that_is_named_is_there_and_every_operation_has_its_own_id() {
        let document = document();
        let text = document.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name: String = part.chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(document["components"]["schemas"].get(&name).is_some(), "no schema {name}");
        }
        let ids: BTreeSet<String> = routes::ALL.iter().map(operation_id).collect();
        assert_eq!(ids.len(), routes::ALL.len());
    }
}
