// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi_operations.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "comm/fingerprint.h"
#include "comm/reduce_kernels.h"

namespace lockstep {
namespace {

using native::check_mpi;

// MPI counts in int; far below its end, and large enough that the number of chunks costs nothing.
constexpr std::size_t kChunkBytes = std::size_t{256} << 20;
constexpr int kTags = (1 << 15) - 1;  // the least that every MPI offers, less one
constexpr int kLeavingTag = kTags;    // a message under it says why its sender gave up
constexpr std::chrono::microseconds kPollInterval{50};
constexpr int kPollsBeforeSleep = 200;

using Reason = std::array<char, 256>;

int to_int(std::size_t value) {
  return static_cast<int>(value);
}

/// The frame: every rank tells every other what it is about to do, then chunk after chunk goes
/// through the steps of the collective. Point-to-point messages carry the fingerprints, so that a
/// time-out can say who is missing.
class MpiOperation : public Operation {
 public:
  MpiOperation(MpiChannels& channels, Fingerprint fingerprint, std::size_t bytes)
      : channels_(channels),
        own_(fingerprint),
        others_(static_cast<std::size_t>(channels.data.size())),
        bytes_(bytes) {}

  bool try_start(bool) final {
    if (announcements_.size() != 0) return true;
    const int tag = static_cast<int>(channels_.announced++ % kTags);
    for (int peer = 0; peer < world_size(); ++peer) {
      auto* place = &others_[static_cast<std::size_t>(peer)];
      check_mpi(MPI_Irecv(place, sizeof(*place), MPI_BYTE, peer, tag, channels_.fingerprints.get(),
                          announcements_.add()),
                "MPI_Irecv");
    }
    for (int peer = 0; peer < world_size(); ++peer) {
      check_mpi(MPI_Isend(&own_, sizeof(own_), MPI_BYTE, peer, tag, channels_.fingerprints.get(),
                          announcements_.add()),
                "MPI_Isend");
    }
    return true;
  }

  bool try_finish() final { return advance(); }

  // MPI has no wait with a deadline: look again at once for a while, then with pauses, so that a
  // rank that waits for long leaves the core to others.
  void sleep(std::chrono::nanoseconds limit) final {
    if (++polls_ < kPollsBeforeSleep) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kPollInterval, limit));
    }
  }

  void check_peers() final {
    int has_come = 0;
    MPI_Status status;
    check_mpi(
        MPI_Iprobe(MPI_ANY_SOURCE, kLeavingTag, channels_.fingerprints.get(), &has_come, &status),
        "MPI_Iprobe");
    if (has_come == 0) return;
    Reason reason{};
    check_mpi(MPI_Recv(reason.data(), static_cast<int>(reason.size()), MPI_CHAR, status.MPI_SOURCE,
                       kLeavingTag, channels_.fingerprints.get(), MPI_STATUS_IGNORE),
              "MPI_Recv");
    reason.back() = '\0';
    throw OperationFailure{
        OperationFailure::Kind::PeerLost,
        "rank " + std::to_string(status.MPI_SOURCE) + " gave up: " + reason.data(),
        "look at what that rank reported first"};
  }

  [[nodiscard]] std::string describe_missing() const final {
    std::string text;
    auto& requests = const_cast<native::MpiRequests&>(announcements_);
    for (int peer = 0; !is_agreed_ && peer < world_size(); ++peer) {
      if (requests.is_done(static_cast<std::size_t>(peer))) continue;
      text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer) + " has not arrived";
    }
    return text.empty() ? "the data of a rank that has arrived does not come" : text;
  }

 protected:
  struct Chunk {
    std::size_t start = 0;
    std::size_t bytes = 0;
  };

  /// Starts step `step` (0, 1, ...) of a chunk; false when the chunk has no such step, which is
  /// when it is complete.
  virtual bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) = 0;
  /// Largest chunk, in bytes of `bytes_`.
  [[nodiscard]] virtual std::size_t chunk_bytes() const { return kChunkBytes; }

  [[nodiscard]] MPI_Comm data() const noexcept { return channels_.data.get(); }
  [[nodiscard]] int rank() const noexcept { return channels_.data.rank(); }
  [[nodiscard]] int world_size() const noexcept { return channels_.data.size(); }

 private:
  bool advance() {
    if (!is_agreed_) {
      if (!announcements_.test()) return false;
      check_fingerprints(world_size(),
                         [this](int rank) { return others_[static_cast<std::size_t>(rank)]; });
      is_agreed_ = true;
    }
    while (requests_.test()) {
      requests_.clear();
      polls_ = 0;
      if (done_bytes_ == bytes_) return true;
      const Chunk chunk{done_bytes_, std::min(chunk_bytes(), bytes_ - done_bytes_)};
      if (!start_step(step_++, chunk, requests_)) {
        done_bytes_ += chunk.bytes;
        step_ = 0;
      }
    }
    return false;
  }

  MpiChannels& channels_;
  Fingerprint own_;
  std::vector<Fingerprint> others_;
  std::size_t bytes_;
  native::MpiRequests announcements_;
  native::MpiRequests requests_;
  bool is_agreed_ = false;
  std::size_t done_bytes_ = 0;
  int step_ = 0;
  int polls_ = 0;
};

std::byte* bytes_of(const at::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

class MpiAllReduce final : public MpiOperation {
 public:
  MpiAllReduce(MpiChannels& channels, at::Tensor tensor, ReduceOp op)
      : MpiOperation(channels, fingerprint_of_all_reduce(tensor, op), tensor.nbytes()),
        tensor_(std::move(tensor)),
        op_(op),
        counts_(static_cast<std::size_t>(world_size())),
        offsets_(counts_.size()),
        own_counts_(counts_.size()),
        own_offsets_(counts_.size()) {}

 private:
  bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) override {
    std::byte* data_start = bytes_of(tensor_) + chunk.start;
    if (step == 0) {
      plan(chunk.bytes);
      scratch_.resize(own_bytes() * counts_.size());
      check_mpi(
          MPI_Ialltoallv(data_start, counts_.data(), offsets_.data(), MPI_BYTE, scratch_.data(),
                         own_counts_.data(), own_offsets_.data(), MPI_BYTE, data(), requests.add()),
          "MPI_Ialltoallv");
      return true;
    }
    if (step == 1) {
      reduce_own_share(data_start);
      check_mpi(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data_start, counts_.data(),
                                offsets_.data(), MPI_BYTE, data(), requests.add()),
                "MPI_Iallgatherv");
      return true;
    }
    return false;
  }

  [[nodiscard]] std::size_t element_bytes() const {
    return static_cast<std::size_t>(tensor_.element_size());
  }

  [[nodiscard]] std::size_t own_bytes() const {
    return static_cast<std::size_t>(counts_[static_cast<std::size_t>(rank())]);
  }

  void plan(std::size_t bytes) {
    const std::size_t elements = bytes / element_bytes();
    const std::size_t ranks = counts_.size();
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      const std::size_t start = elements * peer / ranks;
      offsets_[peer] = to_int(start * element_bytes());
      counts_[peer] = to_int((elements * (peer + 1) / ranks - start) * element_bytes());
    }
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      own_counts_[peer] = to_int(own_bytes());
      own_offsets_[peer] = to_int(own_bytes() * peer);
    }
  }

  void reduce_own_share(std::byte* data_start) {
    std::vector<const void*> inputs;
    for (std::size_t peer = 0; peer < counts_.size(); ++peer) {
      inputs.push_back(scratch_.data() + own_bytes() * peer);
    }
    void* output = data_start + offsets_[static_cast<std::size_t>(rank())];
    reduce_ranks(tensor_.scalar_type(), op_, inputs, std::span(&output, 1),
                 own_bytes() / element_bytes());
  }

  at::Tensor tensor_;
  ReduceOp op_;
  std::vector<int> counts_, offsets_;          // each rank's share of a chunk
  std::vector<int> own_counts_, own_offsets_;  // this rank's share, once a rank, in scratch_
  std::vector<std::byte> scratch_;
};

class MpiBroadcast final : public MpiOperation {
 public:
  MpiBroadcast(MpiChannels& channels, at::Tensor tensor, int root)
      : MpiOperation(channels, fingerprint_of_broadcast(tensor, root), tensor.nbytes()),
        tensor_(std::move(tensor)),
        root_(root) {}

 private:
  bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) override {
    if (step != 0) return false;
    check_mpi(MPI_Ibcast(bytes_of(tensor_) + chunk.start, to_int(chunk.bytes), MPI_BYTE, root_,
                         data(), requests.add()),
              "MPI_Ibcast");
    return true;
  }

  at::Tensor tensor_;
  int root_;
};

class MpiAllGather final : public MpiOperation {
 public:
  MpiAllGather(MpiChannels& channels, std::vector<at::Tensor> outputs, at::Tensor input)
      : MpiOperation(channels, fingerprint_of(CollectiveOp::AllGather, input), input.nbytes()),
        outputs_(std::move(outputs)),
        input_(std::move(input)) {}

 private:
  [[nodiscard]] std::size_t chunk_bytes() const override {
    return std::max<std::size_t>(1, kChunkBytes / outputs_.size());
  }

  bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) override {
    if (step == 0) {
      scratch_.resize(chunk.bytes * outputs_.size());
      check_mpi(
          MPI_Iallgather(bytes_of(input_) + chunk.start, to_int(chunk.bytes), MPI_BYTE,
                         scratch_.data(), to_int(chunk.bytes), MPI_BYTE, data(), requests.add()),
          "MPI_Iallgather");
      return true;
    }
    for (std::size_t peer = 0; peer < outputs_.size(); ++peer) {
      std::memcpy(bytes_of(outputs_[peer]) + chunk.start, scratch_.data() + peer * chunk.bytes,
                  chunk.bytes);
    }
    return false;
  }

  std::vector<at::Tensor> outputs_;
  at::Tensor input_;
  std::vector<std::byte> scratch_;
};

/// The exchange of fingerprints alone: nobody gets through before everybody has come.
class MpiBarrier final : public MpiOperation {
 public:
  explicit MpiBarrier(MpiChannels& channels) : MpiOperation(channels, Fingerprint{}, 0) {}

 private:
  bool start_step(int, const Chunk&, native::MpiRequests&) override { return false; }
};

}  // namespace

void announce_leaving(MpiChannels& channels, const std::string& reason) noexcept {
  // Never given back: nobody waits for these messages to go out.
  auto* text = new (std::nothrow) Reason{};
  if (text == nullptr) return;
  std::memcpy(text->data(), reason.data(), std::min(reason.size(), text->size() - 1));
  for (int peer = 0; peer < channels.fingerprints.size(); ++peer) {
    if (peer == channels.fingerprints.rank()) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(text->data(), static_cast<int>(text->size()), MPI_CHAR, peer, kLeavingTag,
              channels.fingerprints.get(), &request);
  }
}

std::unique_ptr<Operation> make_mpi_all_reduce(MpiChannels& channels, at::Tensor tensor,
                                               ReduceOp op) {
  return std::make_unique<MpiAllReduce>(channels, std::move(tensor), op);
}

std::unique_ptr<Operation> make_mpi_broadcast(MpiChannels& channels, at::Tensor tensor, int root) {
  return std::make_unique<MpiBroadcast>(channels, std::move(tensor), root);
}

std::unique_ptr<Operation> make_mpi_all_gather(MpiChannels& channels,
                                               std::vector<at::Tensor> outputs, at::Tensor input) {
  return std::make_unique<MpiAllGather>(channels, std::move(outputs), std::move(input));
}

std::unique_ptr<Operation> make_mpi_barrier(MpiChannels& channels) {
  return std::make_unique<MpiBarrier>(channels);
}

}  // namespace lockstep
