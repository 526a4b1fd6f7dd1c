// A producer in Go, with database/sql and lib/pq. The order and its message stand or fall together.
//
//	DATABASE_URL=postgresql://…?sslmode=disable go run examples/producers/go/orders.go
//
// With pgx it is the same: import github.com/jackc/pgx/v5/stdlib and open "pgx".
//
// Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"

	_ "github.com/lib/pq"
)

// placeOrder writes the order, and what the shop has to say about it; it returns the message's id.
// It takes the transaction and not the *sql.DB: what goes through the DB takes another connection, and is
// committed by itself.
func placeOrder(ctx context.Context, tx *sql.Tx, customer, email, total string) (int64, error) {
	// A decimal stays a string: a float64 would not be exact.
	var order struct {
		ID    int64  `json:"order_id"`
		Email string `json:"email"`
		Total string `json:"total"`
	}
	err := tx.QueryRowContext(ctx,
		`INSERT INTO shop.orders (customer, email, total) VALUES ($1, $2, $3) RETURNING id, email, total`,
		customer, email, total).Scan(&order.ID, &order.Email, &order.Total)
	if err != nil {
		return 0, err
	}
	payload, err := json.Marshal(order)
	if err != nil {
		return 0, err
	}
	// PostgreSQL's drivers have no LastInsertId: RETURNING tells the id.
	var id int64
	err = tx.QueryRowContext(ctx,
		`INSERT INTO outbox.message (type, key, payload) VALUES ($1, $2, $3) RETURNING id`,
		"order.created", customer, payload).Scan(&id)
	return id, err
}

func inTransaction(ctx context.Context, db *sql.DB, work func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// After a commit this does nothing.
	defer tx.Rollback()
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func main() {
	ctx := context.Background()
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	var id int64
	err = inTransaction(ctx, db, func(tx *sql.Tx) (err error) {
		id, err = placeOrder(ctx, tx, "carol", "carol@example.com", "7.50")
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("committed: message %d\n", id)

	err = inTransaction(ctx, db, func(tx *sql.Tx) error {
		if _, err := placeOrder(ctx, tx, "dave", "dave@example.com", "99.00"); err != nil {
			return err
		}
		return errors.New("the payment was declined")
	})
	fmt.Printf("rolled back: %v\n", err)
}
