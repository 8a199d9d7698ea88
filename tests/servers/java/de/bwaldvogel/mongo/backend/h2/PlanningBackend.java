package de.bwaldvogel.mongo.backend.h2;

import de.bwaldvogel.mongo.MongoDatabase;
import de.bwaldvogel.mongo.backend.CursorRegistry;
import de.bwaldvogel.mongo.backend.Index;
import de.bwaldvogel.mongo.backend.IndexKey;
import de.bwaldvogel.mongo.bson.Document;
import java.util.List;
import org.h2.mvstore.MVStore;

/**
 * The H2 backend with a planner: a unique index also serves queries that ask for more than
 * its keys, as any MongoDB does. Without it every conditional update reads the whole
 * collection.
 */
public final class PlanningBackend extends H2Backend {
    public PlanningBackend(String file) {
        super(file);
    }

    @Override
    protected MongoDatabase openOrCreateDatabase(String name) {
        OPENING.set(getMvStore());
        return new PlanningDatabase(name, getMvStore(), getCursorRegistry());
    }

    /** What a database is being opened from: its constructor opens the indexes of what it
     *  finds, before any field of its own is set. */
    private static final ThreadLocal<MVStore> OPENING = new ThreadLocal<>();

    private static final class PlanningDatabase extends H2Database {
        private final MVStore store;

        PlanningDatabase(String name, MVStore store, CursorRegistry cursors) {
            super(name, store, cursors);
            this.store = store;
        }

        @Override
        protected Index<Object> openOrCreateUniqueIndex(
                String collection, String name, List<IndexKey> keys, boolean sparse) {
            String map = getDatabaseName() + "." + collection + "._planned_" + name;
            MVStore from = store == null ? OPENING.get() : store;
            return new PlannedIndex(from, map, name, keys, sparse);
        }
    }

    private static final class PlannedIndex extends H2UniqueIndex {
        PlannedIndex(MVStore store, String map, String name, List<IndexKey> keys, boolean sparse) {
            super(store.openMap(map), name, keys, sparse);
        }

        @Override
        public synchronized boolean canHandle(Document query) {
            return query.keySet().containsAll(keySet()) && super.canHandle(ofKeys(query));
        }

        @Override
        public synchronized Iterable<Object> getPositions(Document query) {
            return super.getPositions(ofKeys(query));
        }

        private Document ofKeys(Document query) {
            Document part = new Document();
            for (String key : keySet()) {
                part.put(key, query.get(key));
            }
            return part;
        }
    }
}
