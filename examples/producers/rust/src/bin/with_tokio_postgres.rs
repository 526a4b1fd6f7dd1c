//! A producer with tokio-postgres. The order and its message stand or fall together.
//!
//!     DATABASE_URL=postgresql://… cargo run --manifest-path examples/producers/rust/Cargo.toml \
//!         --bin with_tokio_postgres
//!
//! Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.

use serde_json::json;
use tokio_postgres::{NoTls, Transaction};

/// Writes the order, and what the shop has to say about it; returns the message's id.
///
/// It takes the transaction and not the client, so that it cannot be called without one.
async fn place_order(
    transaction: &Transaction<'_>,
    customer: &str,
    email: &str,
    total: &str,
) -> anyhow::Result<i64> {
    let order: i64 = transaction
        .query_one(
            "INSERT INTO shop.orders (customer, email, total)
             VALUES ($1, $2, $3::text::numeric) RETURNING id",
            &[&customer, &email, &total],
        )
        .await?
        .get(0);
    // The total as text: serde_json's numbers are floats unless it keeps them with arbitrary_precision.
    let payload = json!({ "order_id": order, "email": email, "total": total });
    let message = transaction
        .query_one(
            "INSERT INTO outbox.message (type, key, payload) VALUES ($1, $2, $3) RETURNING id",
            &[&"order.created", &customer, &payload],
        )
        .await?;
    Ok(message.get(0))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")?;
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);

    let transaction = client.transaction().await?;
    let id = place_order(&transaction, "carol", "carol@example.com", "7.50").await?;
    transaction.commit().await?;
    println!("committed: message {id}");

    let transaction = client.transaction().await?;
    place_order(&transaction, "dave", "dave@example.com", "99.00").await?;
    // Dropping it would do the same.
    transaction.rollback().await?;
    println!("rolled back: the payment was declined");
    Ok(())
}
