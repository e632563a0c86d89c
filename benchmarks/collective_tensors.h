// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstddef>

#include "collectives.h"

// What every side needs: tensors of the right sizes, filled and checked alike.
namespace bench {

/// Input and output of a rank; in place where the collective is.
struct Tensors {
  torch::Tensor input;
  torch::Tensor output;
};

inline std::int64_t elements_of(std::size_t bytes, int world_size) {
  const auto world = static_cast<std::int64_t>(world_size);
  return static_cast<std::int64_t>(bytes / sizeof(float)) / world * world;
}

inline bool is_in_place(Op op) {
  return op == Op::AllReduce || op == Op::Broadcast;
}

/// `allocate`: makes a tensor of so many elements, the input's.
template <typename Allocate>
Tensors make_tensors(Op op, std::size_t bytes, int world_size, const Allocate& allocate) {
  const auto elements = elements_of(bytes, world_size);
  const bool is_small_input = op == Op::AllGather;
  Tensors tensors;
  tensors.input = allocate(is_small_input ? elements / world_size : elements);
  if (is_in_place(op)) {
    tensors.output = tensors.input;
  } else {
    tensors.output = torch::zeros({op == Op::ReduceScatter ? elements / world_size : elements});
  }
  return tensors;
}

/// Small whole numbers, so that sums are exact in any order.
inline torch::Tensor pattern(std::int64_t elements, int rank) {
  return torch::arange(elements, torch::kLong).remainder(97).to(torch::kFloat) +
         static_cast<float>(rank);
}

inline torch::Tensor expected(Op op, std::int64_t elements, int rank, int world_size) {
  const auto share = elements / world_size;
  const auto sum = [&] {
    auto total = torch::zeros({elements});
    for (int peer = 0; peer < world_size; ++peer) total += pattern(elements, peer);
    return total;
  };
  std::vector<torch::Tensor> pieces;
  switch (op) {
    case Op::AllReduce:
      return sum();
    case Op::Broadcast:
      return pattern(elements, 0);
    case Op::ReduceScatter:
      return sum().slice(0, rank * share, (rank + 1) * share);
    case Op::AllGather:
      for (int peer = 0; peer < world_size; ++peer) pieces.push_back(pattern(share, peer));
      break;
    case Op::AllToAll:
      for (int peer = 0; peer < world_size; ++peer) {
        pieces.push_back(pattern(elements, peer).slice(0, rank * share, (rank + 1) * share));
      }
      break;
  }
  return torch::cat(pieces);
}

inline Prepared prepared(Op op, const Tensors& tensors, int own_rank, std::function<void()> call) {
  const auto elements = std::max(tensors.input.numel(), tensors.output.numel());
  return {std::move(call),
          [=](int rank) {
            tensors.output.zero_();
            tensors.input.copy_(pattern(tensors.input.numel(), rank));
          },
          [=](int world_size) {
            const auto want = expected(op, elements, own_rank, world_size);
            const auto wrong = (tensors.output != want).sum().item<std::int64_t>();
            tensors.input.zero_();  // sums of sums must not grow while time is taken
            return static_cast<std::size_t>(wrong);
          }};
}

}  // namespace bench
