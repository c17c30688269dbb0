//! Overlay networks, tried with real traffic: hosts and their containers are network namespaces that live as long as the
//! test holds them, and each host makes its own value true.

mod balance;
mod cluster;
mod cycles;
mod ingress;
mod machines;
mod names;
mod reach;
mod repair;
