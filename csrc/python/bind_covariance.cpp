#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>

#include "arrays.hpp"
#include "covariance.hpp"
#include "cpu_dispatch.hpp"

namespace repgeom::python {

namespace {

// Updates run without the GIL, so that Python threads can meet on one object.
struct LockedMoments {
    LockedMoments(index_t dim, index_t cross_dim) : moments(dim, cross_dim) {}

    Moments moments;
    mutable std::mutex mutex;
};

using Vector = py::array_t<double, py::array::c_style>;

Vector copy_of(const std::vector<double>& values) {
    return Vector(static_cast<py::ssize_t>(values.size()), values.data());
}

Weighting weighting_of(const std::string& name) {
    if (name == "frequency") return Weighting::frequency;
    require(name == "reliability", "weighting must be 'frequency' or 'reliability'", "'" + name + "'");
    return Weighting::reliability;
}

// An array of this shape, filled by read(moments, data) without the GIL.
template <typename Read>
Vector read_array_of(const LockedMoments& locked, std::vector<py::ssize_t> shape, const Read& read) {
    Vector out(std::move(shape));
    double* data = out.mutable_data();
    const py::gil_scoped_release release;
    const std::lock_guard lock(locked.mutex);
    read(locked.moments, data);
    return out;
}

py::dict state_of(const LockedMoments& locked) {
    const Moments m = [&] {
        const py::gil_scoped_release release;
        const std::lock_guard lock(locked.mutex);
        return locked.moments;
    }();
    py::dict state;
    state["count"] = m.count;
    state["nonfinite"] = m.nonfinite;
    state["recentred"] = m.recentred;
    state["weight_sum"] = m.weight_sum;
    state["weight_square_sum"] = m.weight_square_sum;
    state["second"] = copy_of(m.second);
    state["cross_second"] = copy_of(m.cross_second);
    for (const auto& [name, side] : {std::pair{"x", &m.x}, std::pair{"cross", &m.cross}}) {
        const std::string prefix = std::string(name) + "_";
        state[py::str(prefix + "shift")] = copy_of(side->shift);
        state[py::str(prefix + "sum")] = copy_of(side->sum);
        state[py::str(prefix + "square")] = copy_of(side->square);
        state[py::str(prefix + "error")] = copy_of(side->error);
    }
    return state;
}

void restore_vector(const py::dict& state, const std::string& key, std::vector<double>& into) {
    const ArrayView array = read_array(state[py::str(key)], "state['" + key + "']");
    const double* values = as_vector(array, "state['" + key + "']", static_cast<index_t>(into.size()));
    std::copy_n(values, into.size(), into.begin());
}

void restore(LockedMoments& locked, const py::dict& state) {
    // Read apart, so that a bad state leaves the moments as they were. Their widths never change.
    Moments fresh(locked.moments.x.dim, locked.moments.cross.dim);
    fresh.count = state["count"].cast<index_t>();
    fresh.nonfinite = state["nonfinite"].cast<index_t>();
    fresh.recentred = state["recentred"].cast<index_t>();
    fresh.weight_sum = state["weight_sum"].cast<double>();
    require(fresh.count >= 0 && fresh.weight_sum >= 0, "count and weight_sum of a state must not be negative",
            fresh.count);
    fresh.weight_square_sum = state["weight_square_sum"].cast<double>();
    restore_vector(state, "second", fresh.second);
    restore_vector(state, "cross_second", fresh.cross_second);
    for (const auto& [name, side] : {std::pair{"x", &fresh.x}, std::pair{"cross", &fresh.cross}}) {
        const std::string prefix = std::string(name) + "_";
        restore_vector(state, prefix + "shift", side->shift);
        restore_vector(state, prefix + "sum", side->sum);
        restore_vector(state, prefix + "square", side->square);
        restore_vector(state, prefix + "error", side->error);
    }
    const py::gil_scoped_release release;
    const std::lock_guard lock(locked.mutex);
    locked.moments = std::move(fresh);
}

void merge(LockedMoments& into, const LockedMoments& from) {
    const py::gil_scoped_release release;
    const Moments copy = [&] {
        const std::lock_guard lock(from.mutex);
        return from.moments;
    }();
    const std::lock_guard lock(into.mutex);
    into.moments.merge(copy);
}

// In the order of their addresses, so that two calls cannot wait for each other.
std::vector<std::unique_lock<std::mutex>> lock_all(std::vector<LockedMoments*> moments) {
    std::sort(moments.begin(), moments.end());
    require(std::adjacent_find(moments.begin(), moments.end()) == moments.end(),
            "each Covariance must appear once in a call", "one of them twice");
    std::vector<std::unique_lock<std::mutex>> locks;
    for (LockedMoments* locked : moments) locks.emplace_back(locked->mutex);
    return locks;
}

const Side& side_of(const Moments& m, bool cross) { return cross ? m.cross : m.x; }

std::vector<index_t> update_moments(const std::vector<LockedMoments*>& moments, const py::list& arrays,
                                    const py::list& cross, const py::object& weights, int threads,
                                    const std::string& instruction_set, index_t run, Workspace& workspace) {
    require(arrays.size() == moments.size(), "one array per Covariance is needed", arrays.size());
    require(cross.size() == 0 || cross.size() == moments.size(), "one cross array per Covariance is needed",
            cross.size());
    require(run >= 1 && run <= 4096, "run must be from 1 to 4096", run);
    std::vector<ArrayView> views;
    std::vector<Batch> batches(moments.size());
    for (std::size_t i = 0; i < moments.size(); ++i) {
        views.push_back(read_array(arrays[i], "x"));
        batches[i].x = as_matrix(views.back(), "x");
        if (cross.size() > 0) {
            views.push_back(read_array(cross[i], "cross"));
            batches[i].cross = as_matrix(views.back(), "cross");
        }
        if (!weights.is_none()) {
            views.push_back(read_array(weights, "weights"));
            batches[i].weights = as_vector(views.back(), "weights", batches[i].x.rows);
        }
    }
    UpdateOptions options;
    options.threads = threads;
    options.kernels = &kernels(instruction_set);
    options.run = run;
    std::vector<Moments*> plain;
    for (LockedMoments* locked : moments) plain.push_back(&locked->moments);
    const py::gil_scoped_release release;
    const auto locks = lock_all(moments);
    return update(plain, batches, options, workspace);
}

}  // namespace

void bind_covariance(py::module_& module) {
    py::class_<Workspace>(module, "Workspace", "Memory that updates reuse.")
        .def(py::init<>())
        .def_property_readonly("bytes", &Workspace::bytes);

    py::class_<LockedMoments>(module, "Moments", "Streaming first and second moments of one layer.")
        .def(py::init<index_t, index_t>(), py::arg("dim"), py::arg("cross_dim") = 0)
        .def_property_readonly("dim", [](const LockedMoments& m) { return m.moments.x.dim; })
        .def_property_readonly("cross_dim", [](const LockedMoments& m) { return m.moments.cross.dim; })
        .def_property_readonly("count", [](const LockedMoments& m) { return m.moments.count; })
        .def_property_readonly("nonfinite", [](const LockedMoments& m) { return m.moments.nonfinite; })
        .def_property_readonly("weight_sum", [](const LockedMoments& m) { return m.moments.weight_sum; })
        .def("merge", &merge, py::arg("other"))
        .def(
            "mean",
            [](const LockedMoments& m, bool cross) {
                return read_array_of(
                    m, {side_of(m.moments, cross).dim},
                    [&](const Moments& now, double* out) { now.mean(side_of(now, cross), out); });
            },
            py::arg("cross") = false)
        .def(
            "variance",
            [](const LockedMoments& m, double ddof, const std::string& weighting) {
                const Weighting kind = weighting_of(weighting);
                return read_array_of(m, {m.moments.x.dim}, [&](const Moments& now, double* out) {
                    now.variance(now.denominator(ddof, kind), out);
                });
            },
            py::arg("ddof") = 1.0, py::arg("weighting") = "frequency")
        .def(
            "covariance",
            [](const LockedMoments& m, double ddof, const std::string& weighting) {
                const Weighting kind = weighting_of(weighting);
                const index_t dim = m.moments.x.dim;
                return read_array_of(m, {dim, dim}, [&](const Moments& now, double* out) {
                    now.covariance(now.denominator(ddof, kind), out);
                });
            },
            py::arg("ddof") = 1.0, py::arg("weighting") = "frequency")
        .def(
            "cross_covariance",
            [](const LockedMoments& m, double ddof, const std::string& weighting) {
                const Weighting kind = weighting_of(weighting);
                const std::vector<py::ssize_t> shape{m.moments.x.dim, m.moments.cross.dim};
                return read_array_of(m, shape, [&](const Moments& now, double* out) {
                    now.cross_covariance(now.denominator(ddof, kind), out);
                });
            },
            py::arg("ddof") = 1.0, py::arg("weighting") = "frequency")
        .def(
            "error_scale",
            [](const LockedMoments& m, double ddof, const std::string& weighting, bool cross) {
                const Weighting kind = weighting_of(weighting);
                return read_array_of(
                    m, {side_of(m.moments, cross).dim}, [&](const Moments& now, double* out) {
                        now.error_scale(side_of(now, cross), now.denominator(ddof, kind), out);
                    });
            },
            py::arg("ddof") = 1.0, py::arg("weighting") = "frequency", py::arg("cross") = false)
        .def("state", &state_of)
        .def("restore", &restore, py::arg("state"));

    module.def("update_moments", &update_moments, py::arg("moments"), py::arg("arrays"), py::arg("cross"),
               py::arg("weights"), py::arg("threads"), py::arg("instruction_set"), py::arg("run"),
               py::arg("workspace"),
               "Adds arrays[i] to moments[i] for all i; returns the non-finite rows left out of each.");
}

}  // namespace repgeom::python
