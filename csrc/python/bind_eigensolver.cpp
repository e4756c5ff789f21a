#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <mutex>

#include "arrays.hpp"
#include "eigensolver.hpp"
#include "sketch.hpp"

namespace repgeom::python {

namespace {

using Doubles = py::array_t<double, py::array::c_style>;

py::array_t<double> to_array(const SmallMatrix& matrix) {
    py::array_t<double> out({matrix.rows(), matrix.cols()});
    std::copy_n(matrix.data(), matrix.size(), out.mutable_data());
    return out;
}

SmallMatrix to_small(const Doubles& array, const char* name) {
    require(array.ndim() == 2, std::string(name) + " must have 2 dimensions", array.ndim());
    return Eigen::Map<const SmallMatrix>(array.data(), array.shape(0), array.shape(1));
}

Eigen::VectorXd to_values(const Doubles& array, index_t size) {
    require(array.ndim() == 1 && array.shape(0) == size, "one value per vector is needed", array.size());
    return Eigen::Map<const Eigen::VectorXd>(array.data(), size);
}

// The space and the arrays that it reads.
struct BoundSpace {
    BoundSpace(const py::object& array, const py::object& mean, double denominator, KrylovOptions options)
        : view(read_array(array, "a")) {
        Operator op;
        op.matrix = as_matrix(view, "a");
        op.denominator = denominator;
        if (mean.is_none()) {
            require(op.matrix.dtype == Dtype::float64, "a dense matrix must be float64", "another type");
            require(op.matrix.rows == op.matrix.columns, "a must have as many rows as columns",
                    op.matrix.rows);
        } else {
            mean_view = read_array(mean, "mean");
            op.mean = as_vector(mean_view, "mean", op.matrix.columns);
        }
        const py::gil_scoped_release release;
        space = std::make_unique<KrylovSpace>(op, options);
    }

    ArrayView view, mean_view;
    std::unique_ptr<KrylovSpace> space;
    std::mutex mutex;
};

py::tuple ritz_pairs(BoundSpace& bound, const Doubles& s, const Doubles& values) {
    const SmallMatrix coefficients = to_small(s, "s");
    const Eigen::VectorXd theta = to_values(values, coefficients.cols());
    const index_t k = coefficients.cols();
    py::array_t<double> vectors({bound.view.shape[1], k}), residuals(k);
    double* vector_data = vectors.mutable_data();
    double* residual_data = residuals.mutable_data();
    {
        const py::gil_scoped_release release;
        const std::lock_guard lock(bound.mutex);
        bound.space->pairs(coefficients, theta, vector_data, residual_data);
    }
    return py::make_tuple(vectors, residuals);
}

py::tuple ritz(BoundSpace& bound) {
    std::pair<Eigen::VectorXd, SmallMatrix> found;
    {
        const py::gil_scoped_release release;
        const std::lock_guard lock(bound.mutex);
        found = bound.space->ritz();
    }
    return py::make_tuple(py::array_t<double>(found.first.size(), found.first.data()),
                          to_array(found.second));
}

void bind_krylov(py::module_& module) {
    py::class_<BoundSpace>(module, "KrylovSpace", "A randomized block Krylov space of a symmetric operator.")
        .def(py::init([](const py::object& a, const py::object& mean, double denominator, index_t block,
                         index_t most, std::uint64_t seed, std::uint64_t stream, int threads,
                         const std::string& instruction_set) {
                 KrylovOptions options;
                 options.block_panels = block;
                 options.most_panels = most;
                 options.seed = seed;
                 options.stream = stream;
                 options.threads = threads;
                 options.kernels = &kernels(instruction_set);
                 return std::make_unique<BoundSpace>(a, mean, denominator, options);
             }),
             py::arg("a"), py::arg("mean"), py::arg("denominator"), py::arg("block_panels"),
             py::arg("most_panels"), py::arg("seed"), py::arg("stream"), py::arg("threads"),
             py::arg("instruction_set"))
        .def("expand",
             [](BoundSpace& bound) {
                 const py::gil_scoped_release release;
                 const std::lock_guard lock(bound.mutex);
                 bound.space->expand();
             })
        .def(
            "restart",
            [](BoundSpace& bound, const Doubles& s, const Doubles& values) {
                const SmallMatrix coefficients = to_small(s, "s");
                const Eigen::VectorXd theta = to_values(values, coefficients.cols());
                const py::gil_scoped_release release;
                const std::lock_guard lock(bound.mutex);
                bound.space->restart(coefficients, theta);
            },
            py::arg("s"), py::arg("values"))
        .def("ritz", &ritz)
        .def("pairs", &ritz_pairs, py::arg("s"), py::arg("values"))
        .def_property_readonly("columns", [](const BoundSpace& b) { return b.space->columns(); })
        .def_property_readonly("full", [](const BoundSpace& b) { return b.space->full(); })
        .def_property_readonly("random_columns",
                               [](const BoundSpace& b) { return b.space->random_columns(); })
        .def_property_readonly("scale", [](const BoundSpace& b) { return b.space->scale(); })
        .def_property_readonly("asymmetry", [](const BoundSpace& b) { return b.space->asymmetry(); })
        .def_property_readonly("projected",
                               [](const BoundSpace& b) { return to_array(b.space->projected()); })
        .def_property_readonly("coupling", [](const BoundSpace& b) { return to_array(b.space->coupling()); });
}

struct LockedSketch {
    LockedSketch(index_t dim, index_t columns, std::uint64_t seed) : sketch(dim, columns, seed) {}
    CovarianceSketch sketch;
    std::mutex mutex;
};

void update_sketch(LockedSketch& locked, const py::object& x, const py::object& weights, int threads,
                   const std::string& instruction_set) {
    const ArrayView view = read_array(x, "x");
    const MatrixView rows = as_matrix(view, "x");
    ArrayView weight_view;
    const double* weight_data = nullptr;
    if (!weights.is_none()) {
        weight_view = read_array(weights, "weights");
        weight_data = as_vector(weight_view, "weights", rows.rows);
    }
    SketchOptions options;
    options.threads = threads;
    options.kernels = &kernels(instruction_set);
    const py::gil_scoped_release release;
    const std::lock_guard lock(locked.mutex);
    locked.sketch.update(rows, weight_data, options);
}

py::array_t<double> sketch_matrix(LockedSketch& locked, bool test) {
    const CovarianceSketch& sketch = locked.sketch;
    py::array_t<double> out({sketch.dim, sketch.columns});
    double* data = out.mutable_data();
    const py::gil_scoped_release release;
    const std::lock_guard lock(locked.mutex);
    test ? sketch.test_matrix(data) : sketch.product(data);
    return out;
}

py::dict first_moments(LockedSketch& locked) {
    const std::lock_guard lock(locked.mutex);
    const CovarianceSketch& sketch = locked.sketch;
    const auto vector = [](const std::vector<double>& values) {
        return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
    };
    py::dict out;
    out["count"] = sketch.count;
    out["nonfinite"] = sketch.nonfinite;
    out["weight_sum"] = sketch.weight_sum;
    out["weight_square_sum"] = sketch.weight_square_sum;
    out["squares"] = sketch.squares;
    out["shift"] = vector(sketch.shift);
    out["sums"] = vector(sketch.sums);
    return out;
}

py::dict sketch_state(LockedSketch& locked) {
    py::dict out = first_moments(locked);
    out["product"] = sketch_matrix(locked, false);
    return out;
}

void restore_sketch(LockedSketch& locked, const py::dict& state) {
    CovarianceSketch& sketch = locked.sketch;
    const auto product = state["product"].cast<Doubles>(), shift = state["shift"].cast<Doubles>(),
               sums = state["sums"].cast<Doubles>();
    require(product.ndim() == 2 && product.shape(0) == sketch.dim && product.shape(1) == sketch.columns,
            "the state's product must be [" + std::to_string(sketch.dim) + ", " +
                std::to_string(sketch.columns) + "]",
            product.size());
    require(shift.size() == 0 || shift.size() == sketch.dim, "the state's shift must be [d] or empty",
            shift.size());
    require(sums.size() == sketch.dim, "the state's sums must be [d]", sums.size());
    const auto count = state["count"].cast<index_t>(), nonfinite = state["nonfinite"].cast<index_t>();
    const auto weight = state["weight_sum"].cast<double>(), squares = state["squares"].cast<double>();
    const auto weight_squares = state["weight_square_sum"].cast<double>();
    const std::lock_guard lock(locked.mutex);
    sketch.set_product(product.data());
    sketch.shift.assign(shift.data(), shift.data() + shift.size());
    sketch.sums.assign(sums.data(), sums.data() + sums.size());
    sketch.count = count;
    sketch.nonfinite = nonfinite;
    sketch.weight_sum = weight;
    sketch.weight_square_sum = weight_squares;
    sketch.squares = squares;
}

}  // namespace

void bind_eigensolver(py::module_& module) {
    bind_krylov(module);
    py::class_<LockedSketch>(module, "CovarianceSketch", "Sums of a sketch of a covariance.")
        .def(py::init<index_t, index_t, std::uint64_t>(), py::arg("dim"), py::arg("columns"), py::arg("seed"))
        .def("update", &update_sketch, py::arg("x"), py::arg("weights"), py::arg("threads"),
             py::arg("instruction_set"))
        .def("test_matrix", [](LockedSketch& locked) { return sketch_matrix(locked, true); })
        .def("first_moments", &first_moments)
        .def("state", &sketch_state)
        .def_property_readonly("count", [](const LockedSketch& locked) { return locked.sketch.count; })
        .def_property_readonly("nonfinite",
                               [](const LockedSketch& locked) { return locked.sketch.nonfinite; })
        .def_property_readonly("weight_sum",
                               [](const LockedSketch& locked) { return locked.sketch.weight_sum; })
        .def("restore", &restore_sketch, py::arg("state"));
}

}  // namespace repgeom::python
