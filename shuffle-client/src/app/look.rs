//! A look at all servers at once, when one of them has lost something: which volumes are there now.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;

use super::AppHandle;
use crate::types::Description;

impl AppHandle {
    /// Asks all servers now, of the settings and of `more`, and returns after twice the limit at
    /// the latest: descriptions by address, `None` without an answer within the limit.
    pub async fn look(
        &self,
        more: Vec<String>,
        limit: Duration,
    ) -> BTreeMap<String, Option<Description>> {
        let client = &self.members.client;
        let named = tokio::time::timeout(limit, client.addresses()).await;
        let addresses: BTreeSet<_> = named.unwrap_or_default().into_iter().chain(more).collect();
        let asked = addresses.into_iter().map(|address| async move {
            let answer = client.describe_within(&address, limit).await;
            (address, answer.ok())
        });
        join_all(asked).await.into_iter().collect()
    }
}
