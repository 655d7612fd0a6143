"""What a node says of an error of ONNX Runtime."""

import pytest

from edge_node.errors import runtime_reason

LOADING = "[ONNXRuntimeError] : 1 : FAIL : Load model from /home/u/blobs/3a68 failed:"
WHERE = (
    "/onnxruntime_src/onnxruntime/core/graph/model_load_utils.h:46 void onnxruntime::model_load_utils::Validate("
    "const std::unordered_map<std::__cxx11::basic_string<char>, int>&, const onnxruntime::logging::Logger&, bool, int) "
)
RUNNING = "Non-zero status code returned while running Add node. Name:'a' Status Message: "
HELP = ": a newer ONNX Runtime may have it"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (LOADING + WHERE + "Opset 22 is under development.", "Opset 22 is under development" + HELP),
        (LOADING + WHERE + "support for opset 22 (soon) is limited", "support for opset 22 (soon) is limited" + HELP),
        (
            LOADING + "Fatal error: com.microsoft:Foo(-1) is not a registered function/op\nmore",
            "Fatal error: com.microsoft:Foo(-1) is not a registered function/op" + HELP,
        ),
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Foo(1) node with name 'x'",
            "Could not find an implementation for Foo(1) node with name 'x'" + HELP,
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : "
            + RUNNING
            + "/src/bfc_arena.cc:376 void* Arena::Alloc(size_t, bool) const Failed to allocate",
            RUNNING + "Failed to allocate",
        ),
        ("", "RuntimeError"),
        ("x" * 1000, "x" * 200 + " ..."),
    ],
)
def test_it_is_what_helps(raised: str, told: str) -> None:
    assert runtime_reason(RuntimeError(raised)) == told
