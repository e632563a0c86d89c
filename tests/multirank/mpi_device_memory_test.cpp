// SPDX-License-Identifier: BSD-3-Clause
// Movements over an MPI that reads the memory of a device. Here that memory is the CPU's, in
// tensors that say otherwise: MPI moves their bytes, and this rank's own code must leave them
// alone.
#include <gtest/gtest.h>
#include <lockstep/core/environment.h>
#include <torch/types.h>

#include <chrono>
#include <numeric>
#include <vector>

#include "comm/exchange/operations.h"
#include "comm/mpi/channels.h"
#include "comm/mpi/transport.h"

namespace lockstep::testing {
namespace {

/// A tensor of a device, over these bytes.
at::Tensor on_device(std::vector<std::int64_t>& values) {
  const std::size_t bytes = values.size() * sizeof(values[0]);
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes,
                       c10::DataPtr(values.data(), c10::Device(c10::kCUDA, 0)));
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA),
      caffe2::TypeMeta::Make<std::int64_t>());
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous({static_cast<std::int64_t>(values.size())});
  return tensor;
}

struct Values {
  explicit Values(int count, std::int64_t first = -1) : values(static_cast<std::size_t>(count)) {
    std::iota(values.begin(), values.end(), first);
    tensor = on_device(values);
  }
  Values(const Values&) = delete;
  Values(Values&&) = default;
  std::vector<std::int64_t> values;
  at::Tensor tensor;
};

void finish(Transport& transport, Collective call) {
  const auto operation = make_exchange_operation(transport, std::move(call));
  ASSERT_TRUE(operation->try_start(true));
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!operation->try_finish()) ASSERT_LT(std::chrono::steady_clock::now(), end);
}

std::vector<at::Tensor> tensors_of(const std::vector<Values>& all) {
  std::vector<at::Tensor> tensors;
  for (const Values& one : all) tensors.push_back(one.tensor);
  return tensors;
}

TEST(MpiDeviceMemory, IsMovedByMpiAlone) {
  native::ensure_mpi();
  MpiChannels channels;
  MpiTransport transport(channels);
  const int rank = channels.data.rank();
  const int ranks = channels.data.size();

  Values shared(5, 100 * rank);
  finish(transport, {.op = CollectiveOp::Broadcast,
                     .root = ranks - 1,
                     .inputs = {shared.tensor},
                     .outputs = {shared.tensor}});
  EXPECT_EQ(shared.values[4], 100 * (ranks - 1) + 4);

  Values own(3, 100 * rank);
  std::vector<Values> rows;
  for (int peer = 0; peer < ranks; ++peer) rows.emplace_back(3);
  finish(transport,
         {.op = CollectiveOp::AllGather, .inputs = {own.tensor}, .outputs = tensors_of(rows)});
  for (int peer = 0; peer < ranks; ++peer) {
    EXPECT_EQ(rows[static_cast<std::size_t>(peer)].values[2], 100 * peer + 2) << peer;
  }

  // In place: this rank's row is its input already.
  finish(transport, {.op = CollectiveOp::AllGather,
                     .inputs = {rows[static_cast<std::size_t>(rank)].tensor},
                     .outputs = tensors_of(rows)});
  EXPECT_EQ(rows[static_cast<std::size_t>(rank)].values[1], 100 * rank + 1);

  std::vector<Values> sent, received;
  for (int peer = 0; peer < ranks; ++peer) {
    sent.emplace_back(2 + peer, 1000 * rank + 10 * peer);
    received.emplace_back(2 + rank);
  }
  finish(transport, {.op = CollectiveOp::AllToAll,
                     .inputs = tensors_of(sent),
                     .outputs = tensors_of(received),
                     .has_own_sizes = true});
  for (int peer = 0; peer < ranks; ++peer) {
    EXPECT_EQ(received[static_cast<std::size_t>(peer)].values[1], 1000 * peer + 10 * rank + 1)
        << peer;
  }

  channels.fingerprints.free();
  channels.data.free();
  channels.messages.free();
}

}  // namespace
}  // namespace lockstep::testing
