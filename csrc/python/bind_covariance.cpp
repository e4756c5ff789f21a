#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.hpp"
#include "covariance.hpp"
#include "cpu_dispatch.hpp"

namespace repgeom::python {

namespace {

using Vector = py::array_t<double, py::array::c_style>;

Vector copy_of(const std::vector<double>& values) {
    return Vector(static_cast<py::ssize_t>(values.size()), values.data());
}

Weighting weighting_of(const std::string& name) {
    if (name == "frequency") return Weighting::frequency;
    require(name == "reliability", "weighting must be 'frequency' or 'reliability'", "'" + name + "'");
    return Weighting::reliability;
}

template <typename Fill>
Vector filled(std::vector<py::ssize_t> shape, const Fill& fill) {
    Vector out(std::move(shape));
    double* data = out.mutable_data();
    const py::gil_scoped_release release;
    fill(data);
    return out;
}

py::dict state_of(const Moments& m) {
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

void restore(Moments& m, const py::dict& state) {
    Moments fresh(m.x.dim, m.cross.dim);  // so that a bad state leaves m as it was
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
    m = std::move(fresh);
}

const Side& side_of(const Moments& m, bool cross) { return cross ? m.cross : m.x; }

std::vector<index_t> update_moments(const std::vector<Moments*>& moments, const py::list& arrays,
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
    const py::gil_scoped_release release;
    return update(moments, batches, options, workspace);
}

}  // namespace

void bind_covariance(py::module_& module) {
    py::class_<Workspace>(module, "Workspace", "Memory that updates reuse.")
        .def(py::init<>())
        .def_property_readonly("bytes", &Workspace::bytes);

    py::class_<Moments>(module, "Moments", "Streaming first and second moments of one layer.")
        .def(py::init<index_t, index_t>(), py::arg("dim"), py::arg("cross_dim") = 0)
        .def_property_readonly("dim", [](const Moments& m) { return m.x.dim; })
        .def_property_readonly("cross_dim", [](const Moments& m) { return m.cross.dim; })
        .def_readonly("count", &Moments::count)
        .def_readonly("nonfinite", &Moments::nonfinite)
        .def_readonly("weight_sum", &Moments::weight_sum)
        .def("merge", &Moments::merge, py::arg("other"), py::call_guard<py::gil_scoped_release>())
        .def(
            "mean",
            [](const Moments& m, bool cross) {
                const Side& side = side_of(m, cross);
                return filled({side.dim}, [&](double* out) { m.mean(side, out); });
            },
            py::arg("cross") = false)
        .def(
            "covariance",
            [](const Moments& m, double ddof, const std::string& weighting) {
                const double denominator = m.denominator(ddof, weighting_of(weighting));
                return filled({m.x.dim, m.x.dim}, [&](double* out) { m.covariance(denominator, out); });
            },
            py::arg("ddof") = 1.0, py::arg("weighting") = "frequency")
        .def(
            "cross_covariance",
            [](const Moments& m, double ddof, const std::string& weighting) {
                const double denominator = m.denominator(ddof, weighting_of(weighting));
                return filled({m.x.dim, m.cross.dim},
                              [&](double* out) { m.cross_covariance(denominator, out); });
            },
            py::arg("ddof") = 1.0, py::arg("weighting") = "frequency")
        .def(
            "error_scale",
            [](const Moments& m, double ddof, bool cross) {
                const double denominator = m.denominator(ddof, Weighting::frequency);
                const Side& side = side_of(m, cross);
                return filled({side.dim}, [&](double* out) { m.error_scale(side, denominator, out); });
            },
            py::arg("ddof") = 1.0, py::arg("cross") = false)
        .def("state", &state_of)
        .def("restore", &restore, py::arg("state"));

    module.def("update_moments", &update_moments, py::arg("moments"), py::arg("arrays"), py::arg("cross"),
               py::arg("weights"), py::arg("threads"), py::arg("instruction_set"), py::arg("run"),
               py::arg("workspace"),
               "Adds arrays[i] to moments[i] for all i; returns the non-finite rows left out of each.");
}

}  // namespace repgeom::python
