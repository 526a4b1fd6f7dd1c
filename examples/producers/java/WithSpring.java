// A producer with Spring's JdbcTemplate and @Transactional. The order and its message stand or fall together.
//
//     JDBC_DATABASE_URL=jdbc:postgresql://… java -cp postgresql.jar:spring-….jar WithSpring.java
//
// Needs examples/shop.sql, and a role that may write orders and is a member of outbox_producer.
import java.math.BigDecimal;
import javax.sql.DataSource;
import org.springframework.aop.framework.ProxyFactory;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.jdbc.datasource.DriverManagerDataSource;
import org.springframework.transaction.annotation.AnnotationTransactionAttributeSource;
import org.springframework.transaction.annotation.Transactional;
import org.springframework.transaction.interceptor.TransactionInterceptor;

public class WithSpring {
    interface Orders {
        long place(String customer, String email, BigDecimal total, Runnable check);
    }

    static class OrderService implements Orders {
        private final JdbcTemplate jdbc;

        OrderService(JdbcTemplate jdbc) {
            this.jdbc = jdbc;
        }

        // Without the annotation each statement is committed by itself; so it is where the method is called
        // from inside its own class, past Spring's proxy. A checked exception commits, unless rollbackFor
        // names it. @TransactionalEventListener runs after the commit, which is too late for a message.
        @Override
        @Transactional(rollbackFor = Exception.class)
        public long place(String customer, String email, BigDecimal total, Runnable check) {
            Long order = jdbc.queryForObject(
                    "INSERT INTO shop.orders (customer, email, total) VALUES (?, ?, ?) RETURNING id",
                    Long.class, customer, email, total);
            // Not through a KeyHolder: it asks for all columns unless told their names.
            Long message = jdbc.queryForObject(
                    "INSERT INTO outbox.message (type, key, payload) VALUES ('order.created', ?,"
                            + " jsonb_build_object('order_id', ?::bigint, 'email', ?::text, 'total', ?::text))"
                            + " RETURNING id",
                    Long.class, customer, order, email, total.toPlainString());
            check.run();
            return message;
        }
    }

    /** What @EnableTransactionManagement does for every bean of an application context. */
    static Orders transactional(Orders orders, DataSource dataSource) {
        ProxyFactory proxy = new ProxyFactory(orders);
        proxy.addAdvice(new TransactionInterceptor(
                new DataSourceTransactionManager(dataSource), new AnnotationTransactionAttributeSource()));
        return (Orders) proxy.getProxy();
    }

    public static void main(String[] arguments) {
        DataSource dataSource = new DriverManagerDataSource(System.getenv("JDBC_DATABASE_URL"));
        Orders orders = transactional(new OrderService(new JdbcTemplate(dataSource)), dataSource);

        long id = orders.place("carol", "carol@example.com", new BigDecimal("7.50"), () -> {});
        System.out.println("committed: message " + id);

        try {
            orders.place("dave", "dave@example.com", new BigDecimal("99.00"), () -> {
                throw new IllegalStateException("the payment was declined");
            });
        } catch (IllegalStateException reason) {
            System.out.println("rolled back: " + reason.getMessage());
        }
    }
}
