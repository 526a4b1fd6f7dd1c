//! A producer with sqlx. The order and its message stand or fall together.
//!
//!     DATABASE_URL=postgresql://… cargo run --manifest-path examples/producers/rust/Cargo.toml \
//!         --bin with_sqlx
//!
//! Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer. The macros
//! `query!` and `query_as!` look at the table at build time: point them at a database where
//! `outboxd migrate` ran.

use serde_json::json;
use sqlx::{PgConnection, PgPool};

/// Writes the order, and what the shop has to say about it; returns the message's id.
///
/// Hand it `&mut *transaction`. With the pool in its place each statement would take a connection of its
/// own, and commit by itself.
async fn place_order(
    connection: &mut PgConnection,
    customer: &str,
    email: &str,
    total: &str,
) -> anyhow::Result<i64> {
    let order: i64 = sqlx::query_scalar(
        "INSERT INTO shop.orders (customer, email, total) VALUES ($1, $2, $3::numeric) RETURNING id",
    )
    .bind(customer)
    .bind(email)
    .bind(total)
    .fetch_one(&mut *connection)
    .await?;
    let payload = json!({ "order_id": order, "email": email, "total": total });
    Ok(sqlx::query_scalar(
        "INSERT INTO outbox.message (type, key, payload) VALUES ($1, $2, $3::jsonb) RETURNING id",
    )
    .bind("order.created")
    .bind(customer)
    .bind(payload.to_string())
    .fetch_one(&mut *connection)
    .await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;

    let mut transaction = pool.begin().await?;
    let id = place_order(&mut transaction, "carol", "carol@example.com", "7.50").await?;
    transaction.commit().await?;
    println!("committed: message {id}");

    let mut transaction = pool.begin().await?;
    place_order(&mut transaction, "dave", "dave@example.com", "99.00").await?;
    // Dropping it would do the same.
    transaction.rollback().await?;
    println!("rolled back: the payment was declined");
    Ok(())
}
