// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/hooks/low_rank.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace lockstep::hooks {
namespace {

// Of a state's names.
constexpr const char* kRandomPrefix = "random.";
constexpr const char* kLastPrefix = "q.";

/// What is new in a column beside those in `basis`, and its length; zeros where nothing is.
struct Remainder {
  at::Tensor column;  // n x 1
  at::Tensor length;  // 1 x 1
  at::Tensor is_useless;
};

at::Tensor length_of(const at::Tensor& column) {
  return at::linalg_vector_norm(column, 2, at::IntArrayRef({0}), /*keepdim=*/true);
}

Remainder remainder_of(at::Tensor column, const std::vector<at::Tensor>& basis) {
  at::Tensor before = length_of(column);
  if (!basis.empty()) {
    const at::Tensor others = at::cat(basis, 1);
    column = column - others.mm(others.t().mm(column));
    before = length_of(column);
    // Once more: of a column that nearly depends on the others, mostly rounding was left. Where
    // even that shrinks, nothing was new.
    column = column - others.mm(others.t().mm(column));
  }
  const at::Tensor length = length_of(column);
  return {column, length, length.le(before * 0.5)};
}

}  // namespace

void check_options(const char* hook, const PowerSgdOptions& options) {
  TORCH_CHECK(options.matrix_approximation_rank() >= 1, hook, ": matrix_approximation_rank is ",
              options.matrix_approximation_rank(), "; allowed are 1 and more");
  TORCH_CHECK(std::isfinite(options.min_compression_rate()) && options.min_compression_rate() > 0,
              hook, ": min_compression_rate is ", options.min_compression_rate(),
              "; it must be positive");
  TORCH_CHECK(std::isfinite(options.orthogonalization_epsilon()) &&
                  options.orthogonalization_epsilon() >= 0,
              hook, ": orthogonalization_epsilon is ", options.orthogonalization_epsilon(),
              "; allowed are 0 and more");
}

OptionNumbers numbers_of(const PowerSgdOptions& options, std::uint64_t steps) {
  // Once all of them are over, their number changes nothing.
  const std::uint64_t begin = std::max(options.start_iteration(), steps);
  return {{"matrix_approximation_rank", static_cast<double>(options.matrix_approximation_rank())},
          {"compression from iteration", static_cast<double>(begin)},
          {"min_compression_rate", options.min_compression_rate()},
          {"use_error_feedback", options.use_error_feedback() ? 1 : 0},
          {"warm_start", options.warm_start() ? 1 : 0},
          {"orthogonalization_epsilon", options.orthogonalization_epsilon()}};
}

bool is_worth_compressing(std::int64_t rows, std::int64_t columns, std::int64_t rank,
                          double min_compression_rate) {
  const auto factors = static_cast<double>(rows + columns) * static_cast<double>(rank);
  return factors * min_compression_rate < static_cast<double>(rows) * static_cast<double>(columns);
}

at::Tensor orthogonalized(const at::Tensor& matrix, double epsilon, const at::Tensor& spare) {
  // Factors are narrow, so that double costs little; squares of small gradients vanish in float.
  const at::Tensor wide = matrix.to(at::kDouble);
  std::vector<at::Tensor> basis;
  for (std::int64_t i = 0; i < wide.size(1); ++i) {
    const Remainder own = remainder_of(wide.narrow(1, i, 1), basis);
    const at::Tensor column = own.column / (own.length + epsilon);
    if (!spare.defined()) {
      basis.push_back(at::where(own.is_useless, 0, column));
      continue;
    }
    const Remainder other = remainder_of(spare.narrow(1, i, 1).to(at::kDouble), basis);
    const at::Tensor is_usable = at::isfinite(own.length).logical_and(own.is_useless.logical_not());
    basis.push_back(at::where(is_usable, column, other.column / other.length));
  }
  return at::cat(basis, 1).to(matrix.scalar_type());
}

bool StartingFactor::fits(const at::Tensor& matrix, std::int64_t rank) const {
  return random_.defined() && random_.scalar_type() == matrix.scalar_type() &&
         random_.device() == matrix.device() && random_.size(0) == matrix.size(1) &&
         random_.size(1) == rank;
}

at::Tensor StartingFactor::next(const at::Tensor& matrix, std::int64_t rank,
                                const PowerSgdOptions& options, at::Generator& generator) {
  const double epsilon = options.orthogonalization_epsilon();
  if (!options.warm_start() || !fits(matrix, rank)) {
    last_.reset();
    // On the CPU, where all ranks get the same numbers whatever their device.
    random_ = at::randn({matrix.size(1), rank}, generator, at::TensorOptions(at::kFloat))
                  .to(matrix.device(), matrix.scalar_type());
  }
  if (!last_.defined()) return orthogonalized(random_, epsilon);
  return orthogonalized(last_, epsilon, random_);
}

void StartingFactor::write(HookStateWriter& writer, const std::string& name) const {
  writer.add(kRandomPrefix + name, random_);
  writer.add(kLastPrefix + name, last_.defined() ? last_ : random_.narrow(0, 0, 0));
}

std::int64_t StartingFactor::columns_in(const HookStateReader& reader, const std::string& name) {
  const at::Tensor random = reader.look_at(kRandomPrefix + name);
  return random.defined() && random.dim() == 2 ? random.size(0) : 0;
}

StartingFactor StartingFactor::read(HookStateReader& reader, const std::string& name,
                                    std::int64_t columns, std::int64_t rank,
                                    const at::Tensor& parameter) {
  StartingFactor factor;
  factor.random_ = reader.take_values(kRandomPrefix + name, {columns, rank}, parameter);
  if (!factor.random_.defined()) {
    TORCH_CHECK(!reader.take(kLastPrefix + name).defined(), reader.hook(), ": the state has '",
                kLastPrefix, name, "', and no '", kRandomPrefix, name, "'; it is not whole");
    return factor;
  }
  const at::Tensor last = reader.need(kLastPrefix + name);
  TORCH_CHECK(last.scalar_type() == factor.random_.scalar_type() && last.dim() == 2 &&
                  (last.size(0) == 0 || last.size(0) == columns) && last.size(1) == rank,
              reader.hook(), ": '", kLastPrefix, name, "' of the state is ", last.scalar_type(),
              " of shape ", last.sizes(), "; beside '", kRandomPrefix, name, "' it must be ",
              factor.random_.scalar_type(), " of shape ", factor.random_.sizes());
  if (last.size(0) == columns) {
    factor.last_ = last.to(parameter.device(), last.scalar_type(), false, /*copy=*/true);
  }
  return factor;
}

}  // namespace lockstep::hooks
