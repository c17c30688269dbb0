//! The networks of a host, tried with real traffic: the host, its containers and a machine outside are network
//! namespaces that live as long as the test holds them.

mod ipv6;
mod joining;
mod lifecycle;
mod machines;
mod oracle;
mod parents;
mod traffic;
