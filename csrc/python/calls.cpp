#include "calls.hpp"

#include <chrono>
#include <thread>
#include <utility>

namespace repgeom::python {

Metric metric_of(const std::string& name) {
    constexpr std::pair<const char*, Metric> metrics[] = {
        {"euclidean", Metric::euclidean},
        {"cosine", Metric::cosine},
        {"inner_product", Metric::inner_product},
        {"manhattan", Metric::manhattan},
        {"chebyshev", Metric::chebyshev},
        {"minkowski", Metric::minkowski},
        {"hamming", Metric::hamming},
        {"precomputed", Metric::precomputed},
    };
    std::string rule = "metric must be one of";
    for (const auto& [known, metric] : metrics) {
        if (name == known) return metric;
        rule.append(" ").append(known);
    }
    require(false, rule, name);
    return Metric::euclidean;
}

namespace {

bool finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

}  // namespace

std::function<void(double)> tell(const py::object& progress) {
    return [&progress](double share) {
        // A daemon thread that wants the lock while Python goes down would be ended by force.
        while (finalizing()) std::this_thread::sleep_for(std::chrono::seconds(1));
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (!progress.is_none()) progress(share);
    };
}

}  // namespace repgeom::python
