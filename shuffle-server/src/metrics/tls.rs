//! What is counted of TLS: until when the certificate is valid, and how its reload goes.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{add, add_unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Setting {
    setting: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

/// See the module. Without TLS nothing of it is there but zeros that no alert is made of.
pub struct TlsMetrics {
    expiry: Family<Setting, Gauge>,
    failing: Gauge,
    reloads: Family<Outcome, Counter>,
    refused: Family<PortLabel, Counter>,
}

impl TlsMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let metrics = Self {
            expiry: add_unit(
                r,
                "tls_certificate_expiry",
                "When the certificate in use ends, since 1970",
                Unit::Seconds,
                Family::default(),
            ),
            failing: add(
                r,
                "tls_reload_failing",
                "1 if the files of tls-cert, tls-key and tls-client-ca cannot be used, and those before stay in use",
                Gauge::default(),
            ),
            reloads: add(
                r,
                "tls_reloads",
                "Changes of the files that were found, by result",
                Family::default(),
            ),
            refused: add(
                r,
                "tls_refused",
                "Connections that did not become secure ones, or were to be no secure ones, by port",
                Family::default(),
            ),
        };
        for result in ["ok", "failed"] {
            metrics.reloads.get_or_create_owned(&Outcome { result });
        }
        for port in ["data", "admin"] {
            metrics.refused.get_or_create_owned(&PortLabel { port });
        }
        metrics
    }

    /// A pair is in use that ends then, in seconds since 1970. A change if it is not the first.
    pub(crate) fn in_use(&self, expiry: i64, changed: bool) {
        let setting = Setting {
            setting: "tls-cert",
        };
        self.expiry.get_or_create_owned(&setting).set(expiry);
        self.failing.set(0);
        if changed {
            self.reloads
                .get_or_create_owned(&Outcome { result: "ok" })
                .inc();
        }
    }

    /// The files are again what is in use.
    pub(crate) fn same(&self) {
        self.failing.set(0);
    }

    /// The files have changed into something that cannot be used.
    pub(crate) fn failed(&self) {
        self.failing.set(1);
        let outcome = Outcome { result: "failed" };
        self.reloads.get_or_create_owned(&outcome).inc();
    }

    /// A connection to this port was refused.
    pub(crate) fn refused(&self, port: &'static str) {
        self.refused.get_or_create_owned(&PortLabel { port }).inc();
    }
}
