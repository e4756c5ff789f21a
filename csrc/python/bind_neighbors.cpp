#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "arrays.hpp"
#include "calls.hpp"
#include "cpu_dispatch.hpp"
#include "neighbors.hpp"

namespace repgeom::python {

namespace {

using Indices = py::array_t<index_t, py::array::c_style>;

NeighborOptions make_options(const std::string& metric, double exponent, int threads,
                             const std::string& instruction_set, std::size_t memory_limit,
                             const py::object& progress) {
    NeighborOptions options;
    options.metric = metric_of(metric);
    options.exponent = exponent;
    options.threads = threads;
    options.kernels = &kernels(instruction_set);
    options.memory_limit = memory_limit;
    options.progress = tell(progress);
    return options;
}

py::dict as_dict(const Certificate& certificate) {
    py::dict out;
    out["path"] = certificate.path;
    out["centres"] = certificate.centres;
    out["error_bound"] = certificate.error_bound;
    out["survivors"] = certificate.survivors;
    out["survivors_max"] = certificate.survivors_max;
    out["evaluated"] = certificate.evaluated;
    out["evaluated_max"] = certificate.evaluated_max;
    out["rows_resolved_early"] = certificate.rows_resolved_early;
    out["row_panels"] = certificate.row_panels;
    out["bytes"] = certificate.bytes;
    return out;
}

py::tuple nearest(const py::object& x, const py::object& queries, index_t k, const std::string& metric,
                  double exponent, bool exclude_self, int threads, const std::string& instruction_set,
                  std::size_t memory_limit, const py::object& progress) {
    const ArrayView x_view = read_array(x, "x");
    const MatrixView reference = as_matrix(x_view, "x");
    ArrayView query_view;
    MatrixView rows = reference;
    if (!queries.is_none()) {
        query_view = read_array(queries, "queries");
        rows = as_matrix(query_view, "queries");
    }
    NeighborOptions options =
        make_options(metric, exponent, threads, instruction_set, memory_limit, progress);
    options.exclude_self = exclude_self;
    require(k >= 1, "k must be at least 1", k);
    const index_t most = options.metric == Metric::precomputed ? reference.columns : reference.rows;
    require(k <= most, "k must be at most the rows of x, " + std::to_string(most), k);
    py::array_t<double, py::array::c_style> distances({rows.rows, k});
    Indices indices({rows.rows, k});
    double* distance_data = distances.mutable_data();
    index_t* index_data = indices.mutable_data();
    Certificate certificate;
    {
        const py::gil_scoped_release release;
        certificate = nearest_neighbors(reference, queries.is_none() ? nullptr : &rows, k, options,
                                        distance_data, index_data);
    }
    return py::make_tuple(distances, indices, as_dict(certificate));
}

py::tuple ranks_of(const py::object& x, const Indices& points, const std::string& metric, double exponent,
                   int threads, const std::string& instruction_set, std::size_t memory_limit,
                   const py::object& progress) {
    const ArrayView x_view = read_array(x, "x");
    const MatrixView matrix = as_matrix(x_view, "x");
    require(points.ndim() == 2, "indices must have 2 dimensions [n, m]", points.ndim());
    require(points.shape(0) == matrix.rows,
            "indices must have as many rows as x, " + std::to_string(matrix.rows), points.shape(0));
    const NeighborOptions options =
        make_options(metric, exponent, threads, instruction_set, memory_limit, progress);
    Indices ranks({points.shape(0), points.shape(1)});
    const index_t* point_data = points.data();
    index_t* rank_data = ranks.mutable_data();
    Certificate certificate;
    {
        const py::gil_scoped_release release;
        certificate = neighbor_ranks(matrix, point_data, points.shape(1), options, rank_data);
    }
    return py::make_tuple(ranks, as_dict(certificate));
}

}  // namespace

void bind_neighbors(py::module_& module) {
    module.def("nearest_neighbors", &nearest, py::arg("x"), py::arg("queries"), py::arg("k"),
               py::arg("metric"), py::arg("exponent"), py::arg("exclude_self"), py::arg("threads"),
               py::arg("instruction_set"), py::arg("memory_limit"), py::arg("progress"),
               "Distances and indices [n, k] of the k nearest rows, and how they were found.");
    module.def("neighbor_ranks", &ranks_of, py::arg("x"), py::arg("indices"), py::arg("metric"),
               py::arg("exponent"), py::arg("threads"), py::arg("instruction_set"), py::arg("memory_limit"),
               py::arg("progress"),
               "Ranks [n, m] of given rows among the neighbours of every row, and how they were found.");
}

}  // namespace repgeom::python
