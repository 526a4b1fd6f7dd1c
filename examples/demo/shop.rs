//! The shop: sellers who write an order and its message in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;

use crate::DATABASE;
use crate::harness::postgres::{Cluster, connect};

/// How many sell at the same time.
pub const SELLERS: usize = 4;
/// Orders of one seller, committed and rolled back.
const ORDERS: usize = 750;
/// Customers of one seller. They are the messages' keys, and nobody else writes to them, so each
/// customer's messages arrive in order.
const CUSTOMERS: usize = 25;
/// Between two orders of one seller.
const PACE: Duration = Duration::from_millis(33);

/// The business's tables, and the roles of seller and relay. Neither may do more than it needs.
const ROLES: &str = "
    CREATE ROLE seller LOGIN IN ROLE outbox_producer;
    GRANT USAGE ON SCHEMA shop TO seller;
    GRANT SELECT, INSERT ON shop.orders TO seller;
    CREATE ROLE relay LOGIN IN ROLE outbox_relay;
";

/// The shop before it opens.
pub struct Shop {
    sellers: Vec<Client>,
}

/// What is being sold.
pub struct Sales {
    counts: Arc<Counts>,
    sellers: JoinSet<Result<BTreeSet<i64>, tokio_postgres::Error>>,
}

#[derive(Default)]
struct Counts {
    committed: AtomicUsize,
    rolled_back: AtomicUsize,
    done: AtomicUsize,
}

/// What was sold, by order.
pub struct Books {
    /// As the table of orders has it.
    pub committed: BTreeMap<i64, Order>,
    /// As the sellers remember it.
    pub rolled_back: BTreeSet<i64>,
}

/// One order.
#[derive(PartialEq, Eq)]
pub struct Order {
    pub customer: String,
    /// Exact, as PostgreSQL writes it.
    pub total: String,
}

impl Shop {
    /// Makes the tables and lets the sellers connect.
    pub async fn build(cluster: &Cluster) -> anyhow::Result<Shop> {
        let owner = cluster.connect(DATABASE).await;
        owner.batch_execute(include_str!("../shop.sql")).await?;
        owner.batch_execute(ROLES).await?;
        let mut seller = cluster.config(DATABASE);
        seller.user("seller");
        let mut sellers = Vec::new();
        for _ in 0..SELLERS {
            sellers.push(connect(&seller).await);
        }
        Ok(Shop { sellers })
    }

    /// Begins to sell.
    pub fn open_doors(self) -> Sales {
        let counts = Arc::new(Counts::default());
        let mut sellers = JoinSet::new();
        for (number, client) in self.sellers.into_iter().enumerate() {
            sellers.spawn(sell(client, number, Arc::clone(&counts)));
        }
        Sales { counts, sellers }
    }
}

impl Sales {
    /// Orders committed so far.
    pub fn committed(&self) -> usize {
        self.counts.committed.load(Ordering::Relaxed)
    }

    /// Orders rolled back so far.
    pub fn rolled_back(&self) -> usize {
        self.counts.rolled_back.load(Ordering::Relaxed)
    }

    /// Whether the last seller went home.
    pub fn is_over(&self) -> bool {
        self.counts.done.load(Ordering::Relaxed) == SELLERS
    }

    /// Reads what was sold.
    pub async fn close_books(self, cluster: &Cluster) -> anyhow::Result<Books> {
        let mut rolled_back = BTreeSet::new();
        for orders in self.sellers.join_all().await {
            rolled_back.extend(orders?);
        }
        let owner = cluster.connect(DATABASE).await;
        let sql = "SELECT id, customer, total::text FROM shop.orders";
        let rows = owner.query(sql, &[]).await?;
        let order = |row: &tokio_postgres::Row| {
            (row.get(0), Order { customer: row.get(1), total: row.get(2) })
        };
        Ok(Books { committed: rows.iter().map(order).collect(), rolled_back })
    }
}

/// One seller's day; the orders that were rolled back.
async fn sell(
    mut client: Client,
    seller: usize,
    counts: Arc<Counts>,
) -> Result<BTreeSet<i64>, tokio_postgres::Error> {
    let mut rolled_back = BTreeSet::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1..=ORDERS {
        pace.tick().await;
        let customer = format!("customer-{}", seller * CUSTOMERS + number % CUSTOMERS + 1);
        let transaction = client.transaction().await?;
        let order = place(&transaction, &customer).await?;
        if number % 10 == 0 {
            transaction.rollback().await?;
            rolled_back.insert(order);
            counts.rolled_back.fetch_add(1, Ordering::Relaxed);
        } else {
            transaction.commit().await?;
            counts.committed.fetch_add(1, Ordering::Relaxed);
        }
    }
    counts.done.fetch_add(1, Ordering::Relaxed);
    Ok(rolled_back)
}

/// The order, and what the shop has to say about it.
async fn place(
    transaction: &tokio_postgres::Transaction<'_>,
    customer: &str,
) -> Result<i64, tokio_postgres::Error> {
    let total = format!("{}.{:02}", fastrand::u32(1..500), fastrand::u32(0..100));
    let email = format!("{customer}@example.com");
    let insert = "INSERT INTO shop.orders (customer, email, total)
                  VALUES ($1, $2, $3::text::numeric) RETURNING id";
    let order: i64 = transaction.query_one(insert, &[&customer, &email, &total]).await?.get(0);
    let send = "INSERT INTO outbox.message (type, key, payload)
                SELECT 'order.created', customer,
                       jsonb_build_object('order_id', id, 'email', email, 'total', total)
                  FROM shop.orders WHERE id = $1";
    transaction.execute(send, &[&order]).await?;
    Ok(order)
}
