//! `POST /commit`: an image of a container.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use stack_engine::image::{CommitChanges, Reference};

use crate::Daemon;
use crate::decode::image::changes;
use crate::decode::{DecodeError, Parameters};
use crate::encode::commit;
use crate::error::ApiError;

/// `POST /commit`.
pub async fn create(
    State(daemon): State<Daemon>,
    parameters: Parameters,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let container = parameters.text("container").ok_or(DecodeError::Missing { name: "container" })?;
    let container = daemon.container(container)?;
    let name = parameters.text("repo").map(|repository| match parameters.text("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    });
    let name = name
        .map(|text| text.parse::<Reference>().map_err(|source| ApiError::Reference { text, source }))
        .transpose()?;
    let asked: Option<Map<String, Value>> = if body.is_empty() {
        None
    } else {
        serde_json::from_slice(&body).map_err(|error| ApiError::Body { problem: error.to_string() })?
    };
    let wanted = changes(&parameters.all("changes"))?;
    let pause = parameters.text("pause").is_none_or(|_| parameters.flag("pause"));
    let id = container.id.clone();
    let subjects = daemon.subjects_of(vec![container]).await?;
    let subject = subjects.first().ok_or_else(|| ApiError::NoSuchContainer { name: id.to_string() })?;
    let own = crate::encode::container::config(subject);
    let made = CommitChanges {
        created_by: own.cmd.clone().unwrap_or_default().join(" "),
        config: commit::config(own, asked.unwrap_or_default(), &wanted),
        author: parameters.text("author").map(str::to_owned),
        message: parameters.text("comment").map(str::to_owned),
        created: jiff::Timestamp::now().to_string(),
    };
    let image = daemon.engine.commit(&id, name, made, pause).await.map_err(ApiError::commit)?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": image.id.as_str() }))))
}
