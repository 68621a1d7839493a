//! What predictions cost, by model and tenant: use as nodes count it, times a price of engine time.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use proto::ids::{ModelName, NodeClass, TenantId};
use proto::usage::{UsagePage, Used};
use serde::{Deserialize, Serialize};

use crate::output::table;

/// A price file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Prices {
    /// Of all prices, such as `EUR`.
    pub currency: String,
    /// By class of node.
    pub class: HashMap<NodeClass, Price>,
}

/// What a class of nodes costs.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Price {
    /// One engine thread, and what it needs around it, for an hour.
    pub core_hour: f64,
}

impl Prices {
    /// Whether every price is one.
    ///
    /// # Errors
    /// Names the class whose price is not.
    pub fn check(&self) -> Result<()> {
        for (class, price) in &self.class {
            let fine = price.core_hour.is_finite() && price.core_hour >= 0.0;
            ensure!(
                fine,
                "`class.{class}.core-hour` is {}: a price is a number from 0",
                price.core_hour
            );
        }
        Ok(())
    }
}

/// What one node told.
#[derive(Clone, Debug)]
pub struct NodeUsage {
    /// Its hardware.
    pub class: NodeClass,
    /// Its use since it started.
    pub usage: UsagePage,
}

/// What it costs in all, and by whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bill {
    /// Of all prices.
    pub currency: String,
    /// How many nodes told their use.
    pub nodes: usize,
    /// Of the engine time that is paid, the share in which no model ran.
    pub idle_share: f64,
    /// All of the nodes' engine time.
    pub total: f64,
    /// By model and tenant.
    pub lines: Vec<Line>,
}

/// What one tenant had of one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Which model.
    pub model: ModelName,
    /// Who; none for tenants that are told together or known no more.
    pub tenant: Option<TenantId>,
    /// How much.
    #[serde(flatten)]
    pub used: Used,
    /// Of its engine time.
    pub busy_cost: f64,
    /// Of that and of its share in what stood idle.
    pub all_in_cost: f64,
    /// 1,000 predictions, by busy time.
    pub busy_per_1000: f64,
    /// 1,000 predictions, idle time included.
    pub all_in_per_1000: f64,
}

#[derive(Default)]
struct Sum {
    used: Used,
    busy: f64,
    all_in: f64,
}

/// Sums over `nodes`. What stands idle on a node is shared by those who use it, by their engine time.
///
/// # Errors
/// A node's class has no price.
pub fn bill(prices: &Prices, nodes: &[NodeUsage]) -> Result<Bill> {
    let mut sums: BTreeMap<(ModelName, Option<TenantId>), Sum> = BTreeMap::new();
    let (mut total, mut busy_total) = (0.0, 0.0);
    for NodeUsage { class, usage } in nodes {
        let price = prices.class.get(class);
        let price =
            price.with_context(|| format!("the price file says nothing of class `{class}`: add [class.{class}]"))?;
        let of_us = |us: f64| us / 3.6e9 * price.core_hour;
        let paid_ms = usage.now.saturating_sub(usage.since);
        let paid = of_us(number(paid_ms) * 1e3 * number(u64::try_from(usage.engine_threads)?));
        let engine_us: u64 = usage.lines.iter().map(|line| line.used.engine_us).sum();
        let busy = of_us(number(engine_us));
        // Readings of two clocks: a node that is busy all the time may tell more than it was up.
        let paid = paid.max(busy);
        (total, busy_total) = (total + paid, busy_total + busy);
        for line in &usage.lines {
            let sum = sums.entry((line.model.clone(), line.tenant.clone())).or_default();
            let own = of_us(number(line.used.engine_us));
            add(&mut sum.used, &line.used);
            sum.busy += own;
            sum.all_in += if busy > 0.0 { paid * own / busy } else { 0.0 };
        }
    }
    let lines = sums.into_iter().map(|((model, tenant), sum)| {
        let per = |cost: f64| {
            if sum.used.predictions == 0 {
                0.0
            } else {
                cost * 1e3 / number(sum.used.predictions)
            }
        };
        Line {
            model,
            tenant,
            used: sum.used,
            busy_cost: sum.busy,
            all_in_cost: sum.all_in,
            busy_per_1000: per(sum.busy),
            all_in_per_1000: per(sum.all_in),
        }
    });
    Ok(Bill {
        currency: prices.currency.clone(),
        nodes: nodes.len(),
        idle_share: if total > 0.0 { 1.0 - busy_total / total } else { 0.0 },
        total,
        lines: lines.collect(),
    })
}

fn add(sum: &mut Used, more: &Used) {
    sum.requests += more.requests;
    sum.predictions += more.predictions;
    sum.kept += more.kept;
    sum.engine_us += more.engine_us;
}

/// Counts stay far below 2^52, where each is a float of its own.
#[allow(clippy::as_conversions, clippy::cast_precision_loss, reason = "std has no other way")]
fn number(count: u64) -> f64 {
    count as f64
}

/// As a table, dearest first.
#[must_use]
pub fn shown(bill: &Bill) -> String {
    let mut lines: Vec<&Line> = bill.lines.iter().collect();
    lines.sort_by(|a, b| b.all_in_cost.total_cmp(&a.all_in_cost));
    let row = |line: &&Line| {
        vec![
            line.model.to_string(),
            line.tenant.as_ref().map_or("-".to_owned(), ToString::to_string),
            line.used.predictions.to_string(),
            line.used.kept.to_string(),
            format!("{:.1}", number(line.used.engine_us) / 1e6),
            format!("{:.6}", line.busy_per_1000),
            format!("{:.6}", line.all_in_per_1000),
        ]
    };
    let head = [
        "model",
        "tenant",
        "predictions",
        "kept",
        "engine s",
        "busy/1000",
        "all in/1000",
    ];
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    format!(
        "{}\n\n{} nodes, {:.4} {} of engine time, {:.1} % of it idle",
        table(&head, &rows, &head[2..]),
        bill.nodes,
        bill.total,
        bill.currency,
        bill.idle_share * 100.0
    )
}

#[cfg(test)]
mod tests {
    use proto::usage::UsageLine;

    use super::*;

    fn prices() -> Prices {
        toml::from_str("currency = \"EUR\"\n[class.cpu]\ncore-hour = 3.6\n").unwrap()
    }
    fn used(predictions: u64, engine_us: u64) -> Used {
        Used {
            requests: predictions,
            predictions,
            kept: 0,
            engine_us,
        }
    }
    fn node(lines: &[(&str, &str, Used)]) -> NodeUsage {
        let line = |(model, tenant, used): &(&str, &str, Used)| UsageLine {
            model: model.parse().unwrap(),
            tenant: Some(tenant.parse().unwrap()),
            used: *used,
        };
        NodeUsage {
            class: "cpu".parse().unwrap(),
            usage: UsagePage {
                since: 0,
                now: 10_000,
                engine_threads: 2,
                lines: lines.iter().map(line).collect(),
            },
        }
    }

    #[test]
    fn busy_time_is_paid_by_who_took_it_and_idle_time_by_their_shares() {
        // 20 thread seconds at a thousandth each; 5 of them busy.
        let one = node(&[("m", "a", used(1_000, 4_000_000)), ("m", "b", used(500, 1_000_000))]);
        let bill = bill(&prices(), &[one]).unwrap();
        assert!(
            (bill.total - 0.02).abs() < 1e-9 && (bill.idle_share - 0.75).abs() < 1e-9,
            "{bill:?}"
        );
        let [a, b] = bill.lines.as_slice() else {
            panic!("{bill:?}")
        };
        assert!(
            (a.busy_per_1000 - 0.004).abs() < 1e-9 && (a.all_in_per_1000 - 0.016).abs() < 1e-9,
            "{a:?}"
        );
        assert!((b.busy_per_1000 - 0.002).abs() < 1e-9, "{b:?}");
        let all: f64 = bill.lines.iter().map(|line| line.all_in_cost).sum();
        assert!((all - bill.total).abs() < 1e-9);
    }

    #[test]
    fn nodes_are_summed_and_kept_answers_make_predictions_cheaper() {
        let (one, two) = (
            node(&[("m", "a", used(1_000, 1_000_000))]),
            node(&[("m", "a", used(3_000, 0))]),
        );
        let bill = bill(&prices(), &[one, two]).unwrap();
        assert_eq!(bill.lines.len(), 1);
        assert!((bill.lines[0].busy_per_1000 - 0.000_25).abs() < 1e-12, "{bill:?}");
        assert!(shown(&bill).contains("4000"), "{}", shown(&bill));
    }

    #[test]
    fn a_class_without_a_price_and_a_price_that_is_none_are_named() {
        let mut odd = node(&[]);
        odd.class = "cuda".parse().unwrap();
        assert!(
            bill(&prices(), &[odd])
                .unwrap_err()
                .to_string()
                .contains("[class.cuda]")
        );
        let wrong: Prices = toml::from_str("currency = \"EUR\"\n[class.cpu]\ncore-hour = -1\n").unwrap();
        assert!(wrong.check().unwrap_err().to_string().contains("class.cpu.core-hour"));
    }
}
