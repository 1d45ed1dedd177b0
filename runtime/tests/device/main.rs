//! What a device does around the labels: self-test, model store, audit trail.

#[cfg(test)]
mod audit;
#[cfg(test)]
#[path = "../bundles/mod.rs"]
mod bundles;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod killed;
#[cfg(feature = "cli")]
#[cfg(test)]
mod program;
#[cfg(test)]
mod self_test;
#[cfg(test)]
mod store;
