//! The host side of `wit/worker.wit`, generated.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "handler-world",
    imports: {
        "flowkit:worker/host.sleep": async | trappable,
        "flowkit:worker/documents.open": async | trappable,
        "flowkit:worker/documents.next": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});
