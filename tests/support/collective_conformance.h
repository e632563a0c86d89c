// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/comm/process_group.h>
#include <torch/torch.h>

#include <cmath>
#include <string>
#include <vector>

// What every backend must do, against sums made by hand in rank order. Called on every rank with an
// open group.
namespace lockstep::testing {

/// Values that differ by rank and place, with fractions that make the order of additions visible.
inline torch::Tensor values_of_rank(int rank, std::int64_t elements, at::ScalarType dtype) {
  const auto places = torch::arange(elements, torch::kDouble);
  const auto values = torch::sin(places * 0.37 + rank * 1.7) * std::pow(10.0, rank) * 3;
  if (c10::isIntegralType(dtype, false)) {
    const auto whole = values.remainder(5);
    return whole.floor().to(dtype);  // small and never negative: fits every type, sums included
  }
  return values.to(dtype);
}

/// Combines one value a rank in rank order, in the type in which the backend accumulates.
inline torch::Tensor expected_reduction(int world_size, std::int64_t elements, at::ScalarType dtype,
                                        ReduceOp op) {
  const bool is_short = dtype == at::kHalf || dtype == at::kBFloat16;
  const auto accumulator = is_short ? at::kFloat : dtype;
  auto result = values_of_rank(0, elements, dtype).to(accumulator);
  for (int rank = 1; rank < world_size; ++rank) {
    const auto next = values_of_rank(rank, elements, dtype).to(accumulator);
    if (op == ReduceOp::Min) {
      result = torch::minimum(result, next);
    } else if (op == ReduceOp::Max) {
      result = torch::maximum(result, next);
    } else {
      result = result + next;
    }
  }
  if (op == ReduceOp::Avg) {
    const auto scale = torch::ones({}, accumulator) / world_size;
    result = result * scale;
  }
  return result.to(dtype);
}

inline void expect_same_bits(const torch::Tensor& actual, const torch::Tensor& expected,
                             const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  EXPECT_TRUE(torch::equal(actual, expected))
      << what << ": largest difference "
      << (actual.to(torch::kDouble) - expected.to(torch::kDouble)).abs().max().item<double>();
}

// From nothing and one element over lengths that no share divides to more than one staging slot.
inline const std::vector<std::int64_t> kLengths{0, 1, 3, 17, 1000, 4096, 5001, 600001};

inline void check_all_reduce(ProcessGroup& group) {
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kByte, at::kChar,
                           at::kShort, at::kInt, at::kLong}) {
    for (const auto op : {ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Min, ReduceOp::Max}) {
      if (op == ReduceOp::Avg && c10::isIntegralType(dtype, false)) continue;
      for (const auto length : kLengths) {
        if (length > 5001 && dtype != at::kFloat && dtype != at::kByte) continue;
        const auto tensor = values_of_rank(group.rank(), length, dtype);
        group.all_reduce(tensor, op).wait();
        expect_same_bits(tensor, expected_reduction(group.size(), length, dtype, op),
                         std::string("all_reduce ") + std::string(to_string(op)) + " of " +
                             std::to_string(length) + " x " + c10::toString(dtype));
      }
    }
  }
}

/// A value that is no number on one rank is one on all of them, whichever rank that is.
inline void check_not_a_number(ProcessGroup& group) {
  for (int where = 0; where < group.size(); ++where) {
    for (const auto op : {ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Min, ReduceOp::Max}) {
      const auto tensor = torch::full({3}, static_cast<float>(group.rank()));
      if (group.rank() == where) tensor[1] = std::nanf("");
      group.all_reduce(tensor, op).wait();
      EXPECT_TRUE(torch::equal(tensor.isnan(), torch::tensor({false, true, false})))
          << to_string(op) << " with a NaN of rank " << where;
    }
  }
}

inline void check_group_memory(ProcessGroup& group) {
  for (const auto length : kLengths) {
    const auto tensor = group.allocate({length}, torch::kFloat);
    EXPECT_EQ(tensor.count_nonzero().item<std::int64_t>(), 0);
    for (int repeat = 0; repeat < 3; ++repeat) {
      tensor.copy_(values_of_rank(group.rank(), length, at::kFloat));
      group.all_reduce(tensor, ReduceOp::Avg).wait();
      expect_same_bits(tensor, expected_reduction(group.size(), length, at::kFloat, ReduceOp::Avg),
                       "group memory of " + std::to_string(length));
    }
  }
}

/// Several collectives under way at once, waited for in another order than they were started in.
inline void check_pipelining(ProcessGroup& group) {
  std::vector<torch::Tensor> tensors;
  // More than may be announced ahead, and than there are fingerprints kept.
  for (int i = 0; i < 100; ++i) tensors.push_back(group.allocate({1000 + i}, torch::kFloat));
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<Work> works;
    const auto ordinary = values_of_rank(group.rank(), 777, at::kFloat);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].copy_(values_of_rank(group.rank(), tensors[i].numel(), at::kFloat));
      works.push_back(group.all_reduce(tensors[i]));
      if (i == 20) works.push_back(group.all_reduce(ordinary));
    }
    for (auto work = works.rbegin(); work != works.rend(); ++work) work->wait();
    expect_same_bits(ordinary, expected_reduction(group.size(), 777, at::kFloat, ReduceOp::Sum),
                     "an ordinary tensor among group memory");
    for (const auto& tensor : tensors) {
      expect_same_bits(tensor,
                       expected_reduction(group.size(), tensor.numel(), at::kFloat, ReduceOp::Sum),
                       "one of several");
    }
  }
}

inline void check_broadcast(ProcessGroup& group) {
  for (int root = 0; root < group.size(); ++root) {
    for (const auto length : kLengths) {
      const auto tensor = values_of_rank(group.rank(), length, at::kFloat);
      group.broadcast(tensor, root).wait();
      expect_same_bits(tensor, values_of_rank(root, length, at::kFloat),
                       "broadcast from " + std::to_string(root));
    }
  }
  const auto flags = torch::full({5}, group.rank() == 0, torch::kBool);
  group.broadcast(flags).wait();
  EXPECT_TRUE(flags.all().item<bool>());
}

inline void check_all_gather(ProcessGroup& group) {
  for (const auto length : kLengths) {
    const auto input = values_of_rank(group.rank(), length, at::kDouble);
    const auto output = torch::empty({group.size(), length}, torch::kDouble);
    std::vector<torch::Tensor> list;
    for (int rank = 0; rank < group.size(); ++rank) list.push_back(torch::empty_like(input));
    group.all_gather(output, input).wait();
    group.all_gather(list, input).wait();
    for (int rank = 0; rank < group.size(); ++rank) {
      const auto expected = values_of_rank(rank, length, at::kDouble);
      expect_same_bits(output[rank], expected, "all_gather into one tensor");
      expect_same_bits(list[static_cast<std::size_t>(rank)], expected, "all_gather into a list");
    }
  }
}

inline void check_strides(ProcessGroup& group) {
  // Dense in another order than usual: reduced where it lies.
  const auto tensor = values_of_rank(group.rank(), 2 * 3 * 4 * 5, at::kFloat)
                          .view({2, 3, 4, 5})
                          .contiguous(torch::MemoryFormat::ChannelsLast);
  const auto expected =
      expected_reduction(group.size(), 2 * 3 * 4 * 5, at::kFloat, ReduceOp::Sum).view({2, 3, 4, 5});
  group.all_reduce(tensor).wait();
  expect_same_bits(tensor, expected, "channels_last");
  EXPECT_THROW(group.all_reduce(torch::zeros({4, 4}).narrow(1, 0, 2)), c10::Error);
  const auto gathered = torch::zeros({group.size() * tensor.numel()});
  EXPECT_THROW(group.all_gather(gathered, tensor), c10::Error);
}

inline void check_everything(ProcessGroup& group) {
  check_all_reduce(group);
  check_not_a_number(group);
  check_group_memory(group);
  check_pipelining(group);
  check_broadcast(group);
  check_all_gather(group);
  check_strides(group);
  for (int i = 0; i < 100; ++i) group.barrier();
}

}  // namespace lockstep::testing
