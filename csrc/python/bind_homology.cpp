#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.hpp"
#include "calls.hpp"
#include "cpu_dispatch.hpp"
#include "homology.hpp"
#include "homology_distances.hpp"
#include "homology_input.hpp"

namespace repgeom::python {

namespace {

using Indices = py::array_t<index_t, py::array::c_style>;

CloudKind kind_of(const std::string& name) {
    constexpr std::pair<const char*, CloudKind> kinds[] = {{"points", CloudKind::points},
                                                           {"square", CloudKind::square},
                                                           {"condensed", CloudKind::condensed},
                                                           {"graph", CloudKind::graph}};
    for (const auto& [known, kind] : kinds)
        if (name == known) return kind;
    require(false, "kind must be one of points square condensed graph", name);
    return CloudKind::points;
}

RipsMethod method_of(const std::string& name) {
    if (name == "links") return RipsMethod::links;
    if (name == "reducer") return RipsMethod::reducer;
    require(name == "auto", "method must be one of auto links reducer", name);
    return RipsMethod::automatic;
}

// Clouds and what keeps their memory alive.
struct Clouds {
    std::vector<Cloud> clouds;
    std::vector<ArrayView> arrays;
    std::vector<Indices> indices;
};

MatrixView as_row(const ArrayView& array, const std::string& name) {
    require(array.shape.size() == 1, name + " must have 1 dimension", array.shape.size());
    require(array.shape[0] <= 1 || array.strides[0] == 1, name + " must be contiguous", "strides");
    return {array.data, array.dtype, 1, array.shape[0], array.shape[0]};
}

void add_graph(const py::handle& item, Clouds& out) {
    const auto parts = py::cast<py::tuple>(item);
    Cloud cloud;
    cloud.kind = CloudKind::graph;
    cloud.vertices = py::cast<index_t>(parts[0]);
    for (int end : {1, 2}) out.indices.push_back(py::cast<Indices>(parts[static_cast<std::size_t>(end)]));
    out.arrays.push_back(read_array(parts[3], "lengths"));
    cloud.values = as_row(out.arrays.back(), "lengths");
    const Indices &rows = out.indices[out.indices.size() - 2], &columns = out.indices.back();
    require(rows.size() == cloud.values.columns && columns.size() == cloud.values.columns,
            "a graph needs two ends for every length", rows.size());
    cloud.rows = rows.data();
    cloud.columns = columns.data();
    out.clouds.push_back(cloud);
}

Clouds read_clouds(const py::list& items, CloudKind kind) {
    Clouds out;
    for (const py::handle& item : items) {
        if (kind == CloudKind::graph) {
            add_graph(item, out);
            continue;
        }
        Cloud cloud;
        cloud.kind = kind;
        out.arrays.push_back(read_array(item, "x"));
        cloud.values =
            kind == CloudKind::condensed ? as_row(out.arrays.back(), "x") : as_matrix(out.arrays.back(), "x");
        out.clouds.push_back(cloud);
    }
    return out;
}

// Hands a vector to NumPy without a copy.
template <typename T>
py::array give(std::vector<T>&& values, index_t columns) {
    auto* kept = new std::vector<T>(std::move(values));
    const py::capsule owner(kept, [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
    const auto rows = static_cast<index_t>(kept->size()) / columns;
    if (columns == 1) return py::array_t<T>({rows}, kept->data(), owner);
    return py::array_t<T>({rows, columns}, kept->data(), owner);
}

py::tuple give_dimension(RipsDimension&& found, index_t dim) {
    // One vertex makes one column all the same.
    const auto simplices = [](std::vector<index_t>&& values, index_t columns) -> py::array {
        const auto rows = static_cast<index_t>(values.size()) / columns;
        return give(std::move(values), columns).attr("reshape")(rows, columns);
    };
    py::object cocycles = py::none();
    if (!found.cocycle_starts.empty())
        cocycles = py::make_tuple(give(std::move(found.cocycle_starts), 1),
                                  simplices(std::move(found.cocycle_simplices), dim + 1),
                                  give(std::move(found.cocycle_coefficients), 1));
    return py::make_tuple(give(std::move(found.bars), 2), give(std::move(found.infinite), 1),
                          simplices(std::move(found.birth_simplices), dim + 1),
                          simplices(std::move(found.death_simplices), dim + 2),
                          simplices(std::move(found.infinite_simplices), dim + 1), cocycles);
}

py::dict give_result(RipsResult&& result) {
    py::list dimensions;
    for (std::size_t d = 0; d < result.dimensions.size(); ++d)
        dimensions.append(give_dimension(std::move(result.dimensions[d]), static_cast<index_t>(d)));
    py::dict out;
    out["n"] = result.n;
    out["edges"] = result.edges;
    out["threshold"] = result.threshold;
    out["enclosing"] = result.enclosing;
    out["error_bound"] = result.error_bound;
    out["triangle_excess"] = result.triangle_excess;
    out["triples"] = result.triples;
    out["method"] = result.method;
    out["dimensions"] = dimensions;
    return out;
}

py::list rips_of(const py::list& items, const std::string& kind, const std::string& metric, double exponent,
                 int max_dim, int field, double threshold, double min_persistence, bool representatives,
                 const std::string& method, int threads, const std::string& instruction_set,
                 const py::object& progress) {
    const Clouds clouds = read_clouds(items, kind_of(kind));
    RipsOptions options;
    options.metric = metric_of(metric);
    options.exponent = exponent;
    options.max_dim = max_dim;
    options.field = field;
    options.threshold = static_cast<float>(threshold);
    options.min_persistence = static_cast<float>(min_persistence);
    options.representatives = representatives;
    options.method = method_of(method);
    options.threads = threads;
    options.kernels = &kernels(instruction_set);
    options.progress = tell(progress);
    std::vector<RipsResult> results;
    {
        const py::gil_scoped_release release;
        results = rips(clouds.clouds, options);
    }
    py::list out;
    for (RipsResult& result : results) out.append(give_result(std::move(result)));
    return out;
}

py::tuple landmarks_of(const py::object& x, const std::string& metric, double exponent, index_t count,
                       index_t first, int threads) {
    const ArrayView view = read_array(x, "x");
    const MatrixView points = as_matrix(view, "x");
    const Metric which = metric_of(metric);
    const py::none no_progress;
    const std::function<void(double)> look = tell(no_progress);
    CheckedDistances checked;
    Landmarks landmarks;
    {
        const py::gil_scoped_release release;
        Watch watch;
        run_watched(
            [&] {
                ThreadTeam team(threads);
                MatrixView read = points;
                if (which == Metric::precomputed) {
                    checked = check_square(points, watch);
                    read = {checked.data, Dtype::float32, points.rows, points.rows, points.rows};
                }
                landmarks = farthest_points(read, which, exponent, count, first, kernels(""), team, watch);
            },
            [&] { look(0); }, [&] { watch.stop.store(true); });
    }
    return py::make_tuple(give(std::move(landmarks.rows), 1), landmarks.cover_radius, checked.triangle_excess,
                          checked.triples);
}

}  // namespace

void bind_homology(py::module_& module) {
    module.def("rips", &rips_of, py::arg("clouds"), py::arg("kind"), py::arg("metric"), py::arg("exponent"),
               py::arg("max_dim"), py::arg("field"), py::arg("threshold"), py::arg("min_persistence"),
               py::arg("representatives"), py::arg("method"), py::arg("threads"), py::arg("instruction_set"),
               py::arg("progress"), "Vietoris-Rips persistence of every cloud.");
    module.def("farthest_points", &landmarks_of, py::arg("x"), py::arg("metric"), py::arg("exponent"),
               py::arg("count"), py::arg("first"), py::arg("threads"),
               "Rows of landmarks, the distance within which they cover all points, and what the test of the "
               "triangle inequality found.");
}

}  // namespace repgeom::python
