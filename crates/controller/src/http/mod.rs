//! The controllers' REST interface: one router, served over mutual TLS and on the local socket.

mod cluster;
mod doctor;
mod error;
mod extract;
mod files;
pub mod guard;
mod images;
mod internal;
pub mod listener;
mod networks;
mod nodes;
mod plan_view;
mod session;
mod stacks;
mod unread_body;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use stack_api::routes::{self, Caller, Route};

pub use self::error::Failure;
pub use self::extract::RequestId;
pub use self::images::{ImageResolver, ResolveImageError};
use crate::control::Control;
use crate::store::{self, Store};

/// Bodies of ordinary requests may have so many bytes; those of a deploy, which brings secrets along, as many as a command.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// What handlers need.
#[derive(Clone)]
pub(crate) struct Context {
    pub store: Store,
    pub resolver: Arc<dyn ImageResolver>,
    pub control: Control,
}

/// All routes of a controller.
pub(crate) fn router(context: Context) -> Router {
    let mut router = Router::new();
    let mut mount = |route: Route, handler: MethodRouter<Context>| {
        let gate = guard::Gate { caller: route.caller, store: Some(context.store.clone()) };
        let handler = handler.route_layer(axum::middleware::from_fn_with_state(gate, guard::admit));
        router = std::mem::take(&mut router).route(route.path, handler);
    };
    mount(routes::JOIN, post(cluster::join));
    mount(routes::CERTIFICATE, post(cluster::renew));
    mount(routes::OPERATORS, post(cluster::operator));
    mount(routes::CLUSTER, get(cluster::show));
    mount(routes::TOKENS, get(cluster::tokens));
    mount(routes::ROTATE_TOKEN, post(cluster::rotate));
    mount(routes::STACKS, get(stacks::list));
    mount(routes::STACK, get(stacks::inspect));
    mount(routes::DEPLOY, put(stacks::deploy).layer(DefaultBodyLimit::max(store::MAX_COMMAND)));
    mount(routes::REMOVE_STACK, delete(stacks::remove));
    mount(routes::PLAN, post(stacks::plan).layer(DefaultBodyLimit::max(store::MAX_COMMAND)));
    mount(routes::STACK_STATUS, get(stacks::status));
    mount(routes::SERVICES, get(stacks::services));
    mount(routes::SCALE, post(stacks::scale));
    mount(routes::TASKS, get(stacks::tasks));
    mount(routes::TASK, get(stacks::task));
    mount(routes::TASK_LOGS, get(nodes::task_logs));
    mount(routes::NODES, get(nodes::list));
    mount(routes::NODE, get(nodes::inspect));
    mount(routes::UPDATE_NODE, patch(nodes::update));
    mount(routes::REMOVE_NODE, delete(nodes::remove));
    mount(routes::NODE_IMAGES, get(nodes::images));
    mount(routes::NODE_IMAGE_LOAD, post(nodes::image_load).layer(DefaultBodyLimit::disable()));
    mount(routes::NODE_IMAGE_IMPORT, post(nodes::image_import).layer(DefaultBodyLimit::disable()));
    mount(routes::NODE_IMAGE_PULL, post(nodes::image_pull));
    mount(routes::NODE_IMAGE_REMOVE, delete(nodes::image_remove));
    mount(routes::NETWORKS, get(networks::list));
    mount(routes::NETWORK, get(networks::inspect));
    mount(routes::PUT_NETWORK, put(networks::put));
    mount(routes::REMOVE_NETWORK, delete(networks::remove));
    mount(routes::SECRETS, get(files::secrets));
    mount(routes::SECRET, get(files::secret));
    mount(routes::CREATE_SECRET, post(files::create_secret));
    mount(routes::REMOVE_SECRET, delete(files::remove_secret));
    mount(routes::CONFIGS, get(files::configs));
    mount(routes::CONFIG, get(files::config));
    mount(routes::CREATE_CONFIG, post(files::create_config));
    mount(routes::REMOVE_CONFIG, delete(files::remove_config));
    mount(routes::REGISTRIES, get(cluster::registries));
    mount(routes::SET_REGISTRY, put(cluster::set_registry));
    mount(routes::REMOVE_REGISTRY, delete(cluster::remove_registry));
    mount(routes::DOCTOR, post(doctor::examine));
    mount(routes::NODE_REGISTER, post(session::register));
    mount(routes::NODE_HEARTBEAT, post(session::heartbeat));
    mount(routes::NODE_ASSIGNMENT, get(session::assignment));
    mount(routes::NODE_NETWORKS, post(session::networks));
    mount(routes::NODE_GUESTS, post(session::guests));
    mount(routes::NODE_ALL_NETWORKS, get(session::all_networks));
    mount(routes::NODE_REPORT, post(session::report).layer(DefaultBodyLimit::max(64 * 1024 * 1024)));
    mount(routes::OPENAPI, get(cluster::openapi));
    let internal = Router::new()
        .route(store::PROPOSE, post(internal::propose).layer(DefaultBodyLimit::max(store::MAX_COMMAND)))
        .route(store::READ_INDEX, post(internal::read_index));
    let raft = context.store.raft_router();
    let between_controllers = guard::protect(
        internal.with_state(context.clone()).merge(raft),
        Caller::Controller,
        Some(context.store.clone()),
    );
    router.layer(DefaultBodyLimit::max(MAX_BODY)).with_state(context).merge(between_controllers)
}
