// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/comm/process_group.h>
#include <torch/torch.h>

#include <array>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

// What every backend must do, against sums made by hand in rank order. Called on every rank with an
// open group.
namespace lockstep::testing {

inline bool is_8_bit_float(at::ScalarType dtype) {
  return dtype == at::kFloat8_e4m3fn || dtype == at::kFloat8_e5m2;
}

/// Kept for the next call: making them takes as long as what is tested. Only operations that are
/// exact or rounded rightly: a value is the same bits however long the tensor around it is.
inline torch::Tensor numbers_of_rank(int rank, std::int64_t elements) {
  thread_local std::map<int, torch::Tensor> known;
  auto& numbers = known[rank];
  if (!numbers.defined() || numbers.numel() < elements) {
    const auto turns = torch::arange(elements, torch::kDouble) * 0.618033988749895 + rank * 0.27;
    // The factor fills the mantissa: sums of doubles depend on their order, too.
    numbers = ((turns - turns.floor()) * 2 - 1) * (std::pow(10.0, rank) * 3.141592653589793);
  }
  return numbers.slice(0, 0, elements);
}

/// Values that differ by rank and place, with fractions that make the order of additions visible.
inline torch::Tensor values_of_rank(int rank, std::int64_t elements, at::ScalarType dtype) {
  const auto values = numbers_of_rank(rank, elements);
  if (dtype == at::kBool) return values > 0;
  if (c10::isIntegralType(dtype, false)) {
    const auto whole = values.remainder(5);
    return whole.floor().to(dtype);  // small and never negative: fits every type, sums included
  }
  if (c10::isComplexType(dtype)) return torch::complex(values, values.roll(1) / 7).to(dtype);
  // The 8-bit floats have neither the range nor an overflow that all conversions agree on.
  if (is_8_bit_float(dtype)) return (values * std::pow(10.0, -rank)).to(dtype);
  return values.to(dtype, /*non_blocking=*/false, /*copy=*/true);
}

inline torch::Tensor combine(const torch::Tensor& left, const torch::Tensor& right, ReduceOp op) {
  switch (op.kind()) {
    case ReduceOp::Kind::Min:
      return torch::minimum(left, right);
    case ReduceOp::Kind::Max:
      return torch::maximum(left, right);
    case ReduceOp::Kind::Product:
      return left * right;
    case ReduceOp::Kind::BitAnd:
      return torch::bitwise_and(left, right);
    case ReduceOp::Kind::BitOr:
      return torch::bitwise_or(left, right);
    case ReduceOp::Kind::BitXor:
      return torch::bitwise_xor(left, right);
    default:
      return left + right;
  }
}

/// Combines one value a rank in rank order, in the type in which the backend accumulates.
inline torch::Tensor expected_reduction(int world_size, std::int64_t elements, at::ScalarType dtype,
                                        ReduceOp op) {
  const bool is_short = dtype == at::kHalf || dtype == at::kBFloat16 || is_8_bit_float(dtype);
  const auto accumulator = is_short ? at::kFloat : dtype;
  // A number of the accumulator's own type, as the backend has it.
  const auto scale = torch::full({}, op.factor(), c10::toRealValueType(accumulator));
  const auto read = [&](int rank) {
    const auto values = values_of_rank(rank, elements, dtype).to(accumulator);
    return op.kind() == ReduceOp::Kind::PreMulSum ? values * scale : values;
  };
  auto result = read(0);
  for (int rank = 1; rank < world_size; ++rank) result = combine(result, read(rank), op);
  if (op == ReduceOp::Avg) {
    result = result * (torch::ones({}, c10::toRealValueType(accumulator)) / world_size);
  }
  return result.to(dtype);
}

inline void expect_same_bits(const torch::Tensor& actual, const torch::Tensor& expected,
                             const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  const auto bytes = [](const torch::Tensor& tensor) {
    return tensor.contiguous().view({-1}).view(torch::kByte);
  };
  if (actual.numel() == 0 || torch::equal(actual, expected)) return;
  EXPECT_TRUE(torch::equal(bytes(actual), bytes(expected)))
      << what << "\nfirst of what came:\n"
      << actual.view({-1}).slice(0, 0, 4) << "\nand of what was expected:\n"
      << expected.view({-1}).slice(0, 0, 4);
}

// From nothing and one element over lengths that no share divides to more than one staging slot.
inline const std::vector<std::int64_t> kLengths{0, 1, 3, 17, 1000, 4096, 5001, 600001};

inline const std::vector<ReduceOp> kReductions{
    ReduceOp::Sum,    ReduceOp::Avg,   ReduceOp::Product, ReduceOp::Min,           ReduceOp::Max,
    ReduceOp::BitAnd, ReduceOp::BitOr, ReduceOp::BitXor,  ReduceOp::PreMulSum(0.3)};
inline const std::vector<at::ScalarType> kDtypes{
    at::kFloat,       at::kDouble,       at::kHalf,          at::kBFloat16, at::kFloat8_e4m3fn,
    at::kFloat8_e5m2, at::kComplexFloat, at::kComplexDouble, at::kByte,     at::kChar,
    at::kShort,       at::kInt,          at::kLong,          at::kBool};

/// What docs/process_groups.md says.
inline bool is_supported(at::ScalarType dtype, ReduceOp op) {
  const bool is_integer = c10::isIntegralType(dtype, /*includeBool=*/true);
  switch (op.kind()) {
    case ReduceOp::Kind::Sum:
    case ReduceOp::Kind::Product:
      return true;
    case ReduceOp::Kind::Avg:
    case ReduceOp::Kind::PreMulSum:
      return !is_integer;
    case ReduceOp::Kind::Min:
    case ReduceOp::Kind::Max:
      return !c10::isComplexType(dtype);
    default:
      return is_integer;
  }
}

inline std::string text_of(const char* what, ReduceOp op, std::int64_t length,
                           at::ScalarType dtype) {
  return std::string(what) + " " + to_string(op) + " of " + std::to_string(length) + " x " +
         c10::toString(dtype);
}

inline void check_all_reduce(ProcessGroup& group) {
  for (const auto dtype : kDtypes) {
    for (const auto op : kReductions) {
      if (!is_supported(dtype, op)) {
        EXPECT_THROW(group.all_reduce(values_of_rank(0, 3, dtype), op), c10::Error)
            << text_of("all_reduce", op, 3, dtype);
        continue;
      }
      for (const auto length : kLengths) {
        if (length > 5001 && dtype != at::kFloat && dtype != at::kByte) continue;
        const auto tensor = values_of_rank(group.rank(), length, dtype);
        group.all_reduce(tensor, op).wait();
        const auto expected = expected_reduction(group.size(), length, dtype, op);
        if (c10::isComplexType(dtype) && op == ReduceOp::Product) {
          // Four products and two sums, which PyTorch's vector code may fuse.
          EXPECT_TRUE(torch::allclose(tensor, expected, dtype == at::kComplexFloat ? 1e-5 : 1e-13))
              << text_of("all_reduce", op, length, dtype);
          continue;
        }
        expect_same_bits(tensor, expected, text_of("all_reduce", op, length, dtype));
      }
    }
  }
}

inline void check_reduce(ProcessGroup& group) {
  for (int root = 0; root < group.size(); ++root) {
    for (const auto length : kLengths) {
      const auto own = values_of_rank(group.rank(), length, at::kFloat);
      const auto ordinary = own.clone();
      const auto shared = group.allocate({length}, torch::kFloat).copy_(own);
      for (const auto& tensor : {ordinary, shared}) {
        group.reduce(tensor, root, ReduceOp::Avg).wait();
        const bool is_root = group.rank() == root;
        expect_same_bits(
            tensor,
            is_root ? expected_reduction(group.size(), length, at::kFloat, ReduceOp::Avg) : own,
            text_of(is_root ? "reduce" : "untouched by reduce", ReduceOp::Avg, length, at::kFloat));
      }
    }
  }
}

inline void check_reduce_scatter(ProcessGroup& group) {
  const int ranks = group.size();
  for (const auto dtype : {at::kFloat, at::kHalf, at::kByte}) {
    for (const auto length : kLengths) {
      const auto all = values_of_rank(group.rank(), length * ranks, dtype);
      const auto expected = expected_reduction(ranks, length * ranks, dtype, ReduceOp::Sum)
                                .slice(0, length * group.rank(), length * (group.rank() + 1));
      const auto shared = group.allocate({length * ranks}, dtype).copy_(all);
      for (const auto& input : {all, shared}) {
        const auto output = torch::empty({length}, dtype);
        group.reduce_scatter(output, input).wait();
        expect_same_bits(output, expected, text_of("reduce_scatter", ReduceOp::Sum, length, dtype));
        group.barrier();  // nobody reads `shared` any more
      }
    }
  }
  // Pieces of different sizes, one of them empty.
  for (const std::int64_t unit : {1, 333, 70001}) {
    const auto all = values_of_rank(group.rank(), unit * ranks * (ranks - 1) / 2, at::kDouble);
    std::vector<torch::Tensor> pieces;
    std::int64_t start = 0;
    for (int rank = 0; rank < ranks; start += unit * rank++) {
      pieces.push_back(all.slice(0, start, start + unit * rank).clone());
    }
    const auto output = torch::empty({unit * group.rank()}, torch::kDouble);
    group.reduce_scatter(output, pieces, ReduceOp::Max).wait();
    start = unit * group.rank() * (group.rank() - 1) / 2;
    expect_same_bits(output,
                     expected_reduction(ranks, all.numel(), at::kDouble, ReduceOp::Max)
                         .slice(0, start, start + output.numel()),
                     "reduce_scatter of pieces of different sizes");
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

inline void check_registered_memory(ProcessGroup& group) {
  for (const auto length : kLengths) {
    const auto tensor = group.allocate({length}, torch::kFloat);
    EXPECT_EQ(tensor.count_nonzero().item<std::int64_t>(), 0);
    for (int repeat = 0; repeat < 3; ++repeat) {
      tensor.copy_(values_of_rank(group.rank(), length, at::kFloat));
      group.all_reduce(tensor, ReduceOp::Avg).wait();
      expect_same_bits(tensor, expected_reduction(group.size(), length, at::kFloat, ReduceOp::Avg),
                       "registered memory of " + std::to_string(length));
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
                     "an ordinary tensor among registered memory");
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
      const auto own = values_of_rank(group.rank(), length, at::kFloat);
      const auto shared = group.allocate({length}, torch::kFloat).copy_(own);
      for (const auto& tensor : {own, shared}) {
        group.broadcast(tensor, root).wait();
        expect_same_bits(tensor, values_of_rank(root, length, at::kFloat),
                         "broadcast from " + std::to_string(root));
      }
    }
  }
  const auto flags = torch::full({5}, group.rank() == 0, torch::kBool);
  group.broadcast(flags).wait();
  EXPECT_TRUE(flags.all().item<bool>());
}

inline void check_all_gather(ProcessGroup& group) {
  for (const auto length : kLengths) {
    const auto own = values_of_rank(group.rank(), length, at::kDouble);
    const auto shared = group.allocate({length}, torch::kDouble).copy_(own);
    for (const auto& input : {own, shared}) {
      const auto output = torch::empty({group.size(), length}, torch::kDouble);
      std::vector<torch::Tensor> list;
      for (int rank = 0; rank < group.size(); ++rank) list.push_back(torch::empty_like(own));
      group.all_gather(output, input).wait();
      group.all_gather(list, input).wait();
      const auto in_place = torch::zeros({group.size(), length}, torch::kDouble);
      in_place[group.rank()].copy_(own);
      group.all_gather(in_place, in_place[group.rank()]).wait();
      for (int rank = 0; rank < group.size(); ++rank) {
        const auto expected = values_of_rank(rank, length, at::kDouble);
        expect_same_bits(output[rank], expected, "all_gather into one tensor");
        expect_same_bits(list[static_cast<std::size_t>(rank)], expected, "all_gather into a list");
        expect_same_bits(in_place[rank], expected, "all_gather in place");
      }
      group.barrier();
    }
  }
  // A tensor may be changed as soon as its own rank's work is done, also where others read it in
  // place.
  const auto shared = group.allocate({600001}, torch::kDouble);
  for (int repeat = 0; repeat < 10; ++repeat) {
    shared.fill_(repeat * 10 + group.rank());
    const auto output = torch::empty({group.size(), shared.numel()}, torch::kDouble);
    group.all_gather(output, shared).wait();
    shared.fill_(-1);
    for (int rank = 0; rank < group.size(); ++rank) {
      EXPECT_TRUE(torch::equal(output[rank], torch::full_like(shared, repeat * 10 + rank)));
    }
  }
  for (const std::int64_t unit : {1, 333, 200001}) {
    std::vector<torch::Tensor> list;
    for (int rank = 0; rank < group.size(); ++rank) {
      list.push_back(torch::empty({unit * rank}, torch::kShort));
    }
    group.all_gather(list, values_of_rank(group.rank(), unit * group.rank(), at::kShort)).wait();
    for (int rank = 0; rank < group.size(); ++rank) {
      expect_same_bits(list[static_cast<std::size_t>(rank)],
                       values_of_rank(rank, unit * rank, at::kShort), "an uneven all_gather");
    }
  }
}

inline void check_gather_and_scatter(ProcessGroup& group) {
  const int ranks = group.size();
  for (int root = 0; root < ranks; ++root) {
    for (const auto length : kLengths) {
      const bool is_root = group.rank() == root;
      std::vector<torch::Tensor> gathered;
      std::vector<torch::Tensor> scattered;
      for (int rank = 0; is_root && rank < ranks; ++rank) {
        gathered.push_back(torch::empty({length}));
        scattered.push_back(values_of_rank(rank, length, at::kFloat) + 1);
      }
      const auto own = values_of_rank(group.rank(), length, at::kFloat);
      const auto output = torch::empty({length});
      auto gathering = group.gather(gathered, own, root);
      auto scattering = group.scatter(output, scattered, root);
      scattering.wait();
      gathering.wait();
      expect_same_bits(output, own + 1, "scatter from " + std::to_string(root));
      for (int rank = 0; is_root && rank < ranks; ++rank) {
        expect_same_bits(gathered[static_cast<std::size_t>(rank)],
                         values_of_rank(rank, length, at::kFloat),
                         "gather to " + std::to_string(root));
      }
      const auto shared = group.allocate({length}, torch::kFloat).copy_(own);
      group.gather(gathered, shared, root).wait();
      for (int rank = 0; is_root && rank < ranks; ++rank) {
        expect_same_bits(gathered[static_cast<std::size_t>(rank)],
                         values_of_rank(rank, length, at::kFloat), "gather of registered memory");
      }
    }
  }
}

/// What rank `from` sends rank `to`.
inline torch::Tensor message(int from, int to, std::int64_t length) {
  return values_of_rank(from, length, at::kInt) + 100 * to + 10000 * from;
}

inline void check_all_to_all(ProcessGroup& group) {
  const int ranks = group.size();
  const auto gather_messages = [&](const auto& length_of, bool is_sent) {
    std::vector<torch::Tensor> messages;
    for (int other = 0; other < ranks; ++other) {
      const int from = is_sent ? group.rank() : other;
      const int to = is_sent ? other : group.rank();
      messages.push_back(message(from, to, length_of(from, to)));
    }
    return messages;
  };
  for (const auto length : kLengths) {
    const auto even = [length](int, int) { return length; };
    const auto own = torch::cat(gather_messages(even, true));
    const auto shared = group.allocate({length * ranks}, torch::kInt).copy_(own);
    for (const auto& input : {own, shared}) {
      const auto output = torch::empty({length * ranks}, torch::kInt);
      group.all_to_all(output, input).wait();
      expect_same_bits(output, torch::cat(gather_messages(even, false)), "all_to_all");
      group.barrier();
    }
  }
  for (const std::int64_t unit : {1, 333, 100001}) {
    // Also nothing at all, from rank 0 to rank 0 and from 1 to 2.
    const auto uneven = [unit](int from, int to) { return unit * ((2 * from + to) % 4); };
    const auto inputs = gather_messages(uneven, true);
    const auto expected = gather_messages(uneven, false);
    std::vector<torch::Tensor> outputs;
    std::vector<std::int64_t> input_splits;
    std::vector<std::int64_t> output_splits;
    for (const auto& input : inputs) input_splits.push_back(input.numel());
    for (const auto& tensor : expected) {
      outputs.push_back(torch::empty_like(tensor));
      output_splits.push_back(tensor.numel());
    }
    group.all_to_all(outputs, inputs).wait();
    const auto joined = torch::empty_like(torch::cat(expected));
    group.all_to_all(joined, torch::cat(inputs), output_splits, input_splits).wait();
    expect_same_bits(joined, torch::cat(expected), "all_to_all with splits");
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      expect_same_bits(outputs[i], expected[i], "all_to_all of lists");
    }
  }
}

/// Registered memory on some ranks and ordinary memory on others, which data movement allows.
inline void check_mixed_memory(ProcessGroup& group) {
  for (const std::int64_t length : {5, 600001}) {
    const auto shared = group.allocate({length * group.size()}, torch::kFloat);
    const auto ordinary = torch::zeros({length * group.size()});
    const auto& tensor = group.rank() == 0 ? shared : ordinary;
    tensor.copy_(values_of_rank(group.rank(), tensor.numel(), at::kFloat));
    const auto rows = torch::empty({group.size(), tensor.numel()});
    group.all_gather(rows, tensor).wait();
    for (int rank = 0; rank < group.size(); ++rank) {
      expect_same_bits(rows[rank], values_of_rank(rank, tensor.numel(), at::kFloat), "mixed");
    }
    const auto part = torch::empty({length});
    group.reduce_scatter(part, tensor).wait();
    expect_same_bits(part,
                     expected_reduction(group.size(), tensor.numel(), at::kFloat, ReduceOp::Sum)
                         .slice(0, length * group.rank(), length * (group.rank() + 1)),
                     "mixed reduce_scatter");
    group.broadcast(tensor, group.size() - 1).wait();
    expect_same_bits(tensor, values_of_rank(group.size() - 1, tensor.numel(), at::kFloat),
                     "mixed broadcast");
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

inline void check_messages(ProcessGroup& group) {
  const int ranks = group.size();
  if (ranks == 1) return;
  const int next = (group.rank() + 1) % ranks;
  const int previous = (group.rank() + ranks - 1) % ranks;
  // Round a ring; also longer than any pipe, so that all must send and receive at once.
  for (const auto length : kLengths) {
    const auto tensor = torch::empty({length});
    auto sending = group.send(values_of_rank(group.rank(), length, at::kFloat), next);
    group.recv(tensor, previous).wait();
    sending.wait();
    expect_same_bits(tensor, values_of_rank(previous, length, at::kFloat), "a message");
  }
  // Tags choose; messages of one tag keep their order; some wait longer than others.
  std::vector<Work> sends;
  for (int i = 0; i < 12; ++i) {
    sends.push_back(group.send(torch::full({50000 + i}, i, torch::kLong), next, i % 3));
  }
  for (const int tag : {2, 0, 1}) {
    for (int i = tag; i < 12; i += 3) {
      const auto tensor = torch::empty({50000 + i}, torch::kLong);
      group.recv(tensor, previous, tag).wait();
      EXPECT_TRUE(torch::equal(tensor, torch::full({50000 + i}, i, torch::kLong)))
          << "message " << i << " with tag " << tag;
    }
  }
  for (Work& work : sends) work.wait();
  // Receives that are called before anything comes, in another order than they are waited for; and
  // collectives between them.
  const auto first = torch::empty({7});
  const auto second = torch::empty({7});
  const auto other = torch::empty({3}, torch::kBool);
  auto one = group.recv(first, previous, 5);
  auto two = group.recv(second, previous, 5);
  auto three = group.recv(other, previous, 6);
  const auto sum = torch::ones({4});
  auto reducing = group.all_reduce(sum);
  group.send(torch::tensor({true, false, true}), next, 6).wait();
  group.send(torch::full({7}, 1.0F), next, 5).wait();
  group.send(torch::full({7}, 2.0F), next, 5).wait();
  two.wait();
  reducing.wait();
  three.wait();
  one.wait();
  EXPECT_EQ(first.sum().item<float>(), 7.0F);
  EXPECT_EQ(second.sum().item<float>(), 14.0F);
  EXPECT_EQ(other.sum().item<std::int64_t>(), 2);
  EXPECT_EQ(sum[3].item<float>(), static_cast<float>(ranks));
  // A collective ends although nobody receives the message before it.
  auto early = group.send(torch::full({300000}, 3.0F), next, 9);
  group.barrier();
  const auto late = torch::empty({300000});
  group.recv(late, previous, 9).wait();
  early.wait();
  EXPECT_EQ(late.sum().item<float>(), 900000.0F);
}

inline void check_groups(ProcessGroup& group) {
  const int ranks = group.size();
  const int rank = group.rank();
  const auto sum_over = [](ProcessGroup& some, int value) {
    const auto tensor = torch::full({3}, value, torch::kLong);
    some.all_reduce(tensor).wait();
    return tensor[0].item<int>();
  };
  // Even and odd ranks, in reverse order.
  const auto half = group.split(rank % 2, -rank);
  const int members = (ranks + 1 - rank % 2) / 2;
  ASSERT_NE(half, nullptr);
  EXPECT_EQ(half->size(), members);
  EXPECT_EQ(half->rank(), members - 1 - rank / 2);
  if (group.local_size() == ranks) {
    EXPECT_EQ(half->local_rank(), half->rank());
    EXPECT_EQ(half->local_size(), half->size());
  }
  EXPECT_EQ(half->backend(), members == 1 ? Backend::Single : group.backend());
  // Everyone but rank 0, turned round once; its traffic goes between that of the others.
  std::vector<int> turned;
  for (int i = 2; i < ranks; ++i) turned.push_back(i);
  if (ranks > 1) turned.push_back(1);
  std::shared_ptr<ProcessGroup> most;
  if (ranks > 1) most = group.new_group(turned);
  EXPECT_EQ(most == nullptr, rank == 0);
  for (int i = 0; i < 5; ++i) {
    const auto everybody = torch::full({5}, rank, torch::kLong);
    auto work = group.all_reduce(everybody);
    int expected = 0;
    for (int other = rank % 2; other < ranks; other += 2) expected += other;
    EXPECT_EQ(sum_over(*half, rank), expected);
    if (most) {
      EXPECT_EQ(sum_over(*most, rank), ranks * (ranks - 1) / 2);
      const auto tensor = torch::full({2}, rank, torch::kLong);
      most->broadcast(tensor).wait();
      EXPECT_EQ(tensor[1].item<int>(), turned[0]);
    }
    work.wait();
    EXPECT_EQ(everybody[4].item<int>(), ranks * (ranks - 1) / 2);
  }
  // A group of a group, some of whose ranks join none.
  const auto few = half->split(half->rank() == 0 ? -1 : 7);
  EXPECT_EQ(few == nullptr, half->rank() == 0);
  half->close();  // before what came of it
  if (few) {
    EXPECT_EQ(sum_over(*few, 1), members - 1);
    few->close();
  }
  if (most) most->close();
  EXPECT_THROW(static_cast<void>(group.new_group({})), c10::Error);
  EXPECT_THROW(static_cast<void>(group.new_group({0, ranks})), c10::Error);
  EXPECT_THROW(static_cast<void>(group.new_group({0, 0})), c10::Error);
}

/// Two groups of the same ranks, each used by a thread of its own.
inline void check_two_threads(ProcessGroup& group) {
  const std::array groups{group.split(0), group.split(0)};
  const auto use = [](ProcessGroup& own, int salt) {
    for (int i = 0; i < 200; ++i) {
      const auto tensor = torch::full({1 + i % 50}, own.rank() + salt + i, torch::kLong);
      own.all_reduce(tensor).wait();
      const int ranks = own.size();
      EXPECT_EQ(tensor[0].item<int>(), ranks * (ranks - 1) / 2 + ranks * (salt + i));
    }
  };
  {
    std::jthread other([&] { use(*groups[1], 1000); });
    use(*groups[0], 0);
  }
  for (const auto& own : groups) own->close();
}

/// Longer than any piece that a backend moves at once.
inline void check_long_tensors(ProcessGroup& group) {
  constexpr std::int64_t kElements = 9'000'001;
  const auto places = torch::arange(kElements, torch::kInt).remainder(1000).to(torch::kFloat);
  const auto ones_of = [&](int rank) { return places + rank; };
  const int ranks = group.size();
  auto tensor = ones_of(group.rank());
  group.all_reduce(tensor).wait();
  EXPECT_TRUE(torch::equal(tensor, ones_of(0) * ranks + ranks * (ranks - 1) / 2));
  tensor = ones_of(group.rank());
  group.broadcast(tensor, ranks - 1).wait();
  EXPECT_TRUE(torch::equal(tensor, ones_of(ranks - 1)));
  const auto all = torch::empty({ranks, kElements});
  group.all_gather(all, ones_of(group.rank())).wait();
  for (int rank = 0; rank < ranks; ++rank) EXPECT_TRUE(torch::equal(all[rank], ones_of(rank)));
  // Each rank's part differs, and its values follow from their places.
  for (int rank = 0; rank < ranks; ++rank) all[rank].copy_(ones_of(rank));
  group.reduce_scatter(tensor, all).wait();
  EXPECT_TRUE(torch::equal(tensor, ones_of(group.rank()) * ranks)) << "reduce_scatter";
  // Only from rank 0 to the last: the ranks between have no part in what is long.
  const auto length = [&](int from, int to) {
    return from == 0 && to == ranks - 1 ? kElements : 1000 + from;
  };
  std::vector<torch::Tensor> inputs, outputs;
  for (int other = 0; other < ranks; ++other) {
    inputs.push_back(ones_of(group.rank()).slice(0, 0, length(group.rank(), other)));
    outputs.push_back(torch::empty({length(other, group.rank())}));
  }
  group.all_to_all(outputs, inputs).wait();
  for (int from = 0; from < ranks; ++from) {
    const auto& output = outputs[static_cast<std::size_t>(from)];
    EXPECT_TRUE(torch::equal(output, ones_of(from).slice(0, 0, output.numel())))
        << "all_to_all from rank " << from;
  }
}

/// An all_reduce of blocks that lie in another order and with other gaps on each rank.
inline void check_indexed_blocks(ProcessGroup& group) {
  const std::vector<std::int64_t> counts{5, 0, 1000, 16, 70001, 3};
  const auto buffer = group.allocate({200000}, at::kFloat);
  if (!group.can_reduce_indexed(buffer)) return;
  const auto displacements = group.allocate({static_cast<std::int64_t>(counts.size())}, at::kLong);
  buffer.fill_(-1);
  std::vector<torch::Tensor> blocks, expected;
  auto* begins = displacements.mutable_data_ptr<std::int64_t>();
  std::int64_t next = 64 * group.rank();
  for (std::size_t turn = 0; turn < counts.size(); ++turn) {
    const auto i = (turn + static_cast<std::size_t>(group.rank())) % counts.size();
    begins[i] = next;
    next += counts[i] + 7;
  }
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto values = values_of_rank(group.rank(), counts[i], at::kFloat);
    blocks.push_back(buffer.narrow(0, begins[i], counts[i]).copy_(values));
    expected.push_back(values.clone());
    group.all_reduce(expected.back(), ReduceOp::Avg).wait();
  }
  const ProcessGroup::IndexedBlocks call{buffer, displacements, counts};
  group.all_reduce(call, ReduceOp::Avg).wait();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    EXPECT_TRUE(torch::equal(blocks[i], expected[i])) << "block " << i;
    blocks[i].fill_(-1);
  }
  EXPECT_TRUE(torch::all(buffer == -1).item<bool>()) << "something between the blocks has changed";

  // Marked as indexed, it is ordinary memory to all other calls.
  group.mark_indexed(buffer);
  const auto part = buffer.narrow(0, 64 * group.rank(), 16).fill_(group.rank() + 1);
  group.all_reduce(part).wait();
  EXPECT_EQ(part[3].item<float>(), static_cast<float>(group.size() * (group.size() + 1)) / 2);
  group.all_reduce(call).wait();

  const auto ordinary = torch::zeros({10});
  EXPECT_THROW(group.mark_indexed(ordinary), c10::Error);
  EXPECT_FALSE(group.can_reduce_indexed(ordinary));
  EXPECT_THROW(group.all_reduce({ordinary, displacements, counts}), c10::Error)
      << "ordinary memory";
  EXPECT_THROW(group.all_reduce({buffer, displacements.clone(), counts}), c10::Error)
      << "displacements that the others do not see";
  EXPECT_THROW(group.all_reduce({buffer, displacements, {5}}), c10::Error)
      << "fewer counts than displacements";
  EXPECT_THROW(group.all_reduce({buffer, buffer.narrow(0, 0, 6), counts}), c10::Error)
      << "displacements of another dtype";
  begins[0] = buffer.numel() - 4;
  EXPECT_THROW(group.all_reduce(call), c10::Error) << "a block that ends behind the buffer";
  begins[0] = -1;
  EXPECT_THROW(group.all_reduce(call), c10::Error) << "a block that begins before the buffer";
}

/// Autograd must hear of every write when the call is made, and of none where nothing is written.
inline void check_versions(ProcessGroup& group) {
  const int ranks = group.size();
  const int rank = group.rank();
  const int last = ranks - 1;
  const auto make = [](std::int64_t elements) { return torch::ones({elements}); };
  const auto make_pieces = [&] {
    std::vector<torch::Tensor> pieces;
    for (int i = 0; i < ranks; ++i) pieces.push_back(make(4));
    return pieces;
  };
  const auto expect = [](const char* what, const std::vector<torch::Tensor>& tensors,
                         bool is_written, const std::function<Work()>& call) {
    std::vector<std::int64_t> before;
    for (const auto& tensor : tensors) before.push_back(tensor._version());
    Work work = call();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(tensors[i]._version() > before[i], is_written) << what << ", tensor " << i;
    }
    work.wait();
  };
  const auto one = make(4), all = make(4 * ranks), input = make(4), inputs = make(4 * ranks);
  const auto view = all.view({ranks, 4});
  const auto pieces = make_pieces(), sources = make_pieces();
  const std::vector<std::int64_t> splits(static_cast<std::size_t>(ranks), 4);
  expect("all_reduce", {one}, true, [&] { return group.all_reduce(one); });
  expect("reduce", {one}, rank == last, [&] { return group.reduce(one, last); });
  expect("broadcast", {one}, rank != last, [&] { return group.broadcast(one, last); });
  expect("all_gather", {all, view}, true, [&] { return group.all_gather(all, input); });
  expect("all_gather", pieces, true, [&] { return group.all_gather(pieces, input); });
  expect("reduce_scatter", {one}, true, [&] { return group.reduce_scatter(one, inputs); });
  expect("reduce_scatter", {one}, true, [&] { return group.reduce_scatter(one, sources); });
  expect("gather", pieces, rank == last, [&] {
    return group.gather(rank == last ? pieces : std::vector<torch::Tensor>(), input, last);
  });
  expect("scatter", {one}, true, [&] {
    return group.scatter(one, rank == last ? sources : std::vector<torch::Tensor>(), last);
  });
  expect("all_to_all", {all, view}, true, [&] { return group.all_to_all(all, inputs); });
  expect("all_to_all with splits", {all, view}, true,
         [&] { return group.all_to_all(all, inputs, splits, splits); });
  expect("all_to_all of lists", pieces, true, [&] { return group.all_to_all(pieces, sources); });
  expect("coalesced", {one, all}, true, [&] {
    return group.coalesced([&] {
      static_cast<void>(group.all_reduce(one));
      static_cast<void>(group.all_reduce(all));
    });
  });
  expect("the inputs of all", {input, inputs, sources[0]}, false,
         [&] { return group.all_gather(all, input); });
  if (ranks > 1) {
    Work received = group.recv(pieces[0], (rank + last) % ranks);
    expect("send", {one}, false, [&] { return group.send(one, (rank + 1) % ranks); });
    received.wait();
    const auto version = pieces[0]._version();
    received = group.recv(pieces[0], (rank + last) % ranks);
    EXPECT_GT(pieces[0]._version(), version) << "recv";
    group.send(one, (rank + 1) % ranks).wait();
    received.wait();
  }
  torch::Tensor without_version;
  {
    const torch::InferenceMode mode;
    without_version = make(4);
  }
  group.all_reduce(without_version).wait();
  EXPECT_EQ(without_version[3].item<float>(), static_cast<float>(ranks));
}

/// Barriers that are waited for later: alone, met by `barrier`, among other calls, and as a part of
/// one work.
inline void check_barriers(ProcessGroup& group) {
  constexpr std::chrono::seconds kLimit{60};  // wait(limit): until it is there, on a stream too
  const int last = group.size() - 1;
  const auto sum = torch::ones({4});
  group.all_reduce(sum).wait();
  const auto go = torch::ones({1});
  if (group.rank() == last && last > 0) group.recv(go, 0).wait(kLimit);
  Work work = group.barrier_async();
  if (group.rank() == 0 && last > 0) {
    EXPECT_FALSE(work.is_completed()) << "the last rank waits for a message of this one";
    group.send(go, last).wait(kLimit);
  }
  work.wait();
  EXPECT_TRUE(work.is_completed());
  EXPECT_EQ(work.exception(), nullptr);

  if (group.rank() == last) {
    group.barrier();
  } else {
    group.barrier_async().wait();
  }

  Work first = group.barrier_async();
  Work reduced = group.all_reduce(sum);
  group.barrier_async().wait();
  EXPECT_TRUE(first.is_completed()) << "barriers end in the order of their calls";
  reduced.wait();
  Work all = group.coalesced([&] {
    group.all_reduce(sum);
    group.barrier_async();
  });
  all.wait(kLimit);
  EXPECT_TRUE(all.is_completed());
  EXPECT_EQ(sum[3].item<float>(), std::pow(static_cast<float>(group.size()), 3.0F));
  for (int i = 0; i < 100; ++i) group.barrier();
}

inline void check_everything(ProcessGroup& group) {
  check_all_reduce(group);
  check_not_a_number(group);
  check_registered_memory(group);
  check_indexed_blocks(group);
  check_pipelining(group);
  check_reduce(group);
  check_reduce_scatter(group);
  check_broadcast(group);
  check_all_gather(group);
  check_gather_and_scatter(group);
  check_all_to_all(group);
  check_mixed_memory(group);
  check_strides(group);
  check_messages(group);
  check_groups(group);
  check_two_threads(group);
  check_versions(group);
  check_barriers(group);
}

}  // namespace lockstep::testing
