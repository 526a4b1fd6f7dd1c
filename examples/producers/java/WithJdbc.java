// A producer with plain JDBC. The order and its message stand or fall together.
//
//     JDBC_DATABASE_URL=jdbc:postgresql://… java -cp postgresql.jar WithJdbc.java
//
// Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;

public class WithJdbc {
    /** Writes the order, and what the shop has to say about it; returns the message's id. */
    static long placeOrder(Connection connection, String customer, String email, BigDecimal total)
            throws SQLException {
        long order;
        try (PreparedStatement insert = connection.prepareStatement(
                "INSERT INTO shop.orders (customer, email, total) VALUES (?, ?, ?) RETURNING id")) {
            insert.setString(1, customer);
            insert.setString(2, email);
            insert.setBigDecimal(3, total);
            order = id(insert);
        }
        // PostgreSQL builds the JSON: it quotes what must be quoted, and a numeric keeps its digits. Text
        // from a JSON library will do as well; as a parameter it needs the cast `?::jsonb`.
        // RETURN_GENERATED_KEYS would ask for all columns (RETURNING *), which a producer may not read.
        try (PreparedStatement insert = connection.prepareStatement(
                "INSERT INTO outbox.message (type, key, payload) VALUES ('order.created', ?,"
                        + " jsonb_build_object('order_id', ?::bigint, 'email', ?::text, 'total', ?::text))"
                        + " RETURNING id")) {
            insert.setString(1, customer);
            insert.setLong(2, order);
            insert.setString(3, email);
            insert.setString(4, total.toPlainString());
            return id(insert);
        }
    }

    private static long id(PreparedStatement insert) throws SQLException {
        try (ResultSet rows = insert.executeQuery()) {
            rows.next();
            return rows.getLong(1);
        }
    }

    public static void main(String[] arguments) throws SQLException {
        try (Connection connection = DriverManager.getConnection(System.getenv("JDBC_DATABASE_URL"))) {
            // As it comes, a connection commits each statement by itself.
            connection.setAutoCommit(false);

            long id = placeOrder(connection, "carol", "carol@example.com", new BigDecimal("7.50"));
            connection.commit();
            System.out.println("committed: message " + id);

            try {
                placeOrder(connection, "dave", "dave@example.com", new BigDecimal("99.00"));
                throw new IllegalStateException("the payment was declined");
            } catch (IllegalStateException reason) {
                connection.rollback();
                System.out.println("rolled back: " + reason.getMessage());
            }
        }
    }
}
