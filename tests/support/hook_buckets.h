// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/parallel/communication_hook.h>
#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace lockstep::testing {

/// Parameters, and gradients of them as DDP lays them into a bucket: with zeros between them.
struct HandMadeBucket {
  HandMadeBucket(std::vector<torch::Tensor> its_parameters, at::ScalarType dtype)
      : parameters(std::move(its_parameters)) {
    std::int64_t elements = 0;
    for (const auto& parameter : parameters) elements += padded(parameter);
    // Not at the beginning of its memory, as it is with several buckets.
    buffer = torch::zeros({elements + 16}, dtype).narrow(0, 16, elements);
    std::int64_t offset = buffer.storage_offset();
    for (const auto& parameter : parameters) {
      gradients.push_back(buffer.as_strided(parameter.sizes(), parameter.strides(), offset));
      offset += padded(parameter);
    }
  }

  [[nodiscard]] GradientBucketView view(std::size_t index = 0, bool is_last = true,
                                        std::uint64_t plan = 1) const {
    return {index, is_last, plan, buffer, gradients, parameters};
  }

  /// What `hook` makes of these gradients, one tensor a parameter.
  std::vector<torch::Tensor> reduce(ProcessGroup& group, const CommunicationHook& hook,
                                    const std::vector<torch::Tensor>& values,
                                    std::uint64_t plan = 1) {
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < values.size(); ++i) gradients[i].copy_(values[i]);
    buffer.copy_(hook(group, view(0, true, plan)).wait());
    std::vector<torch::Tensor> averages;
    for (const auto& gradient : gradients) averages.push_back(gradient.clone());
    return averages;
  }

  /// The elements that belong to no gradient.
  [[nodiscard]] torch::Tensor gaps() const {
    std::vector<torch::Tensor> parts{torch::zeros({1})};
    std::int64_t offset = 0;
    for (const auto& parameter : parameters) {
      const auto end = offset + padded(parameter);
      offset += parameter.numel();
      parts.push_back(buffer.narrow(0, offset, end - offset).to(torch::kFloat));
      offset = end;
    }
    return torch::cat(parts);
  }

  std::vector<torch::Tensor> parameters;
  torch::Tensor buffer;
  std::vector<torch::Tensor> gradients;

 private:
  static std::int64_t padded(const torch::Tensor& parameter) {
    return (parameter.numel() + 15) / 16 * 16;
  }
};

inline std::vector<torch::Tensor> make_parameters(
    const std::vector<std::vector<std::int64_t>>& sizes) {
  std::vector<torch::Tensor> parameters;
  for (const auto& size : sizes) parameters.push_back(torch::zeros(size));
  return parameters;
}

/// Values by formula, of another kind on each rank and in each step.
inline torch::Tensor wave(at::IntArrayRef sizes, int rank, int step = 0) {
  const auto numel = c10::multiply_integers(sizes);
  const auto places = torch::arange(numel, torch::kDouble);
  return (torch::sin(places * places * 0.13 + places * 0.7 + rank * 1.7 + step * 0.9) *
          (1 + 0.5 * rank))
      .view(sizes);
}

/// The mean over ranks of what `values(rank)` gives, in double.
template <typename F>
torch::Tensor mean_over_ranks(int ranks, const F& values) {
  torch::Tensor sum = values(0).to(torch::kDouble);
  for (int rank = 1; rank < ranks; ++rank) sum = sum + values(rank).to(torch::kDouble);
  return sum / ranks;
}

/// The mean over ranks of something that each rank has, in double.
inline torch::Tensor mean_of(ProcessGroup& group, const torch::Tensor& own) {
  const auto wide = own.to(torch::kDouble).contiguous().clone();
  group.all_reduce(wide, ReduceOp::Avg).wait();
  return wide;
}

inline double largest(const torch::Tensor& values) {
  return values.abs().max().to(torch::kDouble).item<double>();
}

inline double largest_difference(const torch::Tensor& a, const torch::Tensor& b) {
  return largest(a.to(torch::kDouble) - b.to(torch::kDouble));
}

inline void expect_same_bits_on_all_ranks(ProcessGroup& group, const torch::Tensor& own) {
  const auto flat = own.detach().flatten().contiguous();
  const auto all = torch::empty({group.size(), flat.numel()}, flat.options());
  group.all_gather(all, flat).wait();
  for (int rank = 1; rank < group.size(); ++rank) {
    EXPECT_TRUE(torch::equal(all[0], all[rank])) << "ranks 0 and " << rank;
  }
}

}  // namespace lockstep::testing
