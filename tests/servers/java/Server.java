import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.PlanningBackend;
import java.io.IOException;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * One server for tests: `Server kafka PROPERTIES CLUSTER_ID` or `Server mongo PORT FILE`.
 * It ends when its standard input does, so that it never outlives whoever started it.
 */
public final class Server {
    /** MongoDB 4.4, the oldest that the driver speaks to. */
    private static final class Version implements MongoVersion {
        public List<Integer> getVersionArray() {
            return List.of(4, 4, 0);
        }

        public int getWireVersion() {
            return 9;
        }
    }

    public static void main(String[] arguments) throws Exception {
        Thread watch = new Thread(Server::endWithInput, "input");
        watch.setDaemon(true);
        watch.start();
        if (arguments[0].equals("kafka")) {
            kafka(arguments[1], arguments[2]);
        } else {
            mongo(Integer.parseInt(arguments[1]), arguments[2]);
        }
    }

    private static void endWithInput() {
        try {
            while (System.in.read() >= 0) {
                // Whatever is written there says nothing.
            }
        } catch (IOException closed) {
            // As good as the end.
        }
        System.exit(0);
    }

    private static void kafka(String properties, String cluster) {
        // The tool ends the process when it is done, which is too early here.
        Exit.setExitProcedure((status, message) -> {
            throw new IllegalStateException("exit " + status);
        });
        try {
            kafka.tools.StorageTool.main(new String[] {
                "format", "--ignore-formatted", "-t", cluster, "-c", properties});
        } catch (IllegalStateException ended) {
            if (!ended.getMessage().equals("exit 0")) {
                throw ended;
            }
        }
        Exit.resetExitProcedure();
        kafka.Kafka.main(new String[] {properties});
    }

    private static void mongo(int port, String file) {
        PlanningBackend backend = new PlanningBackend(file);
        backend.version(new Version());
        MongoServer server = new MongoServer(backend);
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        server.bind("127.0.0.1", port);
    }
}
