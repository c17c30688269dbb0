//! The name server of containers, tried with real sockets: hosts, containers and the world's name servers are network
//! namespaces that live as long as the test holds them.

mod machines;
mod names;
mod outage;
mod world;
