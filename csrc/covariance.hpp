// Streaming mean, covariance and cross-covariance of one or of many layers at once.
//
// Kept per layer, about a shift s: W = sum w, S1 = sum w (x - s), S2 = sum w (x - s)(x - s)^T in float64,
// with
//   mean = s + S1 / W,   covariance = (S2 - S1 S1^T / W) / denominator.
// Merging and re-shifting: Chan, Golub, LeVeque (1979); weights: Schubert, Gertz (SSDBM 2018). Every call
// shifts its own rows by a rounded median where a channel's offset exceeds its spread, so that a constant or
// massive channel costs no digits; the sums are moved to the common shift in float64.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "parallel.hpp"
#include "types.hpp"

namespace repgeom {

// One stream of vectors: first moments about `shift`, and what the rounding of its products may amount to.
struct Side {
    explicit Side(index_t dim);

    index_t dim;
    std::vector<double> shift;
    std::vector<double> sum;     // sum w (x - shift)
    std::vector<double> square;  // sum w (x - shift)^2: the diagonal of S2
    std::vector<double> error;   // |error of S2_ij| <= sqrt(error_i error_j)
};

enum class Weighting { frequency, reliability };

struct Moments {
    explicit Moments(index_t dim, index_t cross_dim = 0);

    Side x;
    Side cross;             // dim 0 without a cross-covariance
    index_t count = 0;      // rows of positive weight
    index_t nonfinite = 0;  // rows left out because they hold NaN or infinity
    index_t recentred = 0;  // count at the last look at the shift
    double weight_sum = 0;
    double weight_square_sum = 0;
    std::vector<double> second;        // S2, lower triangle by rows: (i, j) at i (i + 1) / 2 + j
    std::vector<double> cross_second;  // sum w (x - s)(y - s)^T, [dim, cross_dim]

    void merge(const Moments& other);

    // W - ddof, or W - ddof * sum w^2 / W for reliability weights. Throws unless positive.
    double denominator(double ddof, Weighting weighting) const;

    void mean(const Side& side, double* out) const;
    void variance(double denominator, double* out) const;          // [dim], its diagonal
    void covariance(double denominator, double* out) const;        // [dim, dim]
    void cross_covariance(double denominator, double* out) const;  // [dim, cross_dim]

    // |error of covariance_ij| <= out_i out_j
    void error_scale(const Side& side, double denominator, double* out) const;

    // Moves the common shift to the mean where a channel's mean is far from it compared with its spread.
    void recentre();
};

struct Batch {
    MatrixView x;
    MatrixView cross;                 // rows 0 without a cross-covariance
    const double* weights = nullptr;  // one per row, finite and >= 0; null: 1
};

// What survives from call to call, because making it anew costs more than the arithmetic: memory, whose fresh
// pages would have to be mapped, and threads, which the scheduler starts on a busy processor.
class Workspace {
  public:
    Workspace() = default;
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    void* reserve(std::size_t bytes);
    std::size_t bytes() const { return bytes_; }
    ThreadTeam& team(int threads);
    std::mutex& mutex() { return mutex_; }  // one update at a time

  private:
    struct Free {
        void operator()(void* memory) const;
    };

    void drop_team();

    std::unique_ptr<void, Free> memory_;
    std::size_t bytes_ = 0;
    std::unique_ptr<ThreadTeam> team_;
    int threads_ = 0;
    long process_ = 0;  // that started the team
    std::mutex mutex_;
};

struct UpdateOptions {
    int threads = 1;
    const KernelTable* kernels = nullptr;
    index_t run = 512;                      // rows summed in the data's precision before float64 takes over
    std::size_t workspace_bytes = 1 << 22;  // wish, not a limit: at least one run of one layer is packed
};

// `centre` rounded to a multiple of the power of two not above `spread`: close enough to the centre, and
// whole for data of whole numbers, whose sums so stay exact.
double rounded_shift(double centre, double spread);

// Adds batch i to moments i, for all i, with one team of threads. Rows with NaN or infinity are left out and
// counted. Bad shapes and weights throw before anything changes. Returns the rows left out of each.
std::vector<index_t> update(std::span<Moments* const> moments, std::span<const Batch> batches,
                            const UpdateOptions& options, Workspace& workspace);

}  // namespace repgeom
