// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/message.h"
#include "comm/mpi/operation.h"

namespace lockstep {
namespace {

using native::check_mpi;

/// A header, then the bytes in chunks, all under the message's tag: MPI keeps the order of what one
/// rank sends another under one tag. All parts are under way from the start, so that two messages
/// of one tag never mix.
class MpiMessage : public Operation {
 public:
  MpiMessage(MpiChannels& channels, at::Tensor tensor, int peer, int tag)
      : channels_(channels),
        tensor_(std::move(tensor)),
        header_(MessageHeader::of(tensor_, tag)),
        peer_(peer) {}

  bool try_start(bool) final {
    if (requests_.size() == 0) start_all();
    return true;
  }
  bool try_finish() final {
    if (!has_header_) {
      if (!requests_.is_done(0)) return false;
      check_header();
      has_header_ = true;
    }
    return requests_.test();
  }
  void sleep(std::chrono::nanoseconds limit) final { backoff_.sleep(limit); }
  void check_peers() final { check_mpi_peers(channels_); }

 protected:
  /// Starts one part: sends or receives `bytes` bytes at `data`.
  virtual void start(void* data, std::size_t bytes, MPI_Request* request) = 0;
  virtual void check_header() {}

  [[nodiscard]] MPI_Comm communicator() const noexcept { return channels_.messages.get(); }
  [[nodiscard]] int peer() const noexcept { return peer_; }
  [[nodiscard]] const MessageHeader& expected() const noexcept { return header_; }
  [[nodiscard]] MessageHeader* header_place() noexcept { return &sent_; }

 private:
  void start_all() {
    sent_ = header_;
    start(header_place(), sizeof(MessageHeader), requests_.add());
    auto* data = static_cast<std::byte*>(tensor_.data_ptr());
    for (std::size_t done = 0; done < tensor_.nbytes(); done += kMpiChunkBytes) {
      start(data + done, std::min(kMpiChunkBytes, tensor_.nbytes() - done), requests_.add());
    }
  }

  MpiChannels& channels_;
  at::Tensor tensor_;
  MessageHeader header_;
  MessageHeader sent_;  // by this rank, or what came
  int peer_;
  native::MpiRequests requests_;
  MpiBackoff backoff_;
  bool has_header_ = false;
};

class MpiSend final : public MpiMessage {
 public:
  using MpiMessage::MpiMessage;
  [[nodiscard]] std::string describe_missing() const override {
    return "rank " + std::to_string(peer()) + " does not receive; " + describe(expected()) +
           " waits for it";
  }

 private:
  void start(void* data, std::size_t bytes, MPI_Request* request) override {
    check_mpi(MPI_Isend(data, to_mpi_count(bytes), MPI_BYTE, peer(), expected().tag, communicator(),
                        request),
              "MPI_Isend");
  }
};

class MpiReceive final : public MpiMessage {
 public:
  using MpiMessage::MpiMessage;
  [[nodiscard]] std::string describe_missing() const override {
    return "rank " + std::to_string(peer()) + " has not sent " + describe(expected());
  }

 private:
  void start(void* data, std::size_t bytes, MPI_Request* request) override {
    check_mpi(MPI_Irecv(data, to_mpi_count(bytes), MPI_BYTE, peer(), expected().tag, communicator(),
                        request),
              "MPI_Irecv");
  }
  void check_header() override { check_message(*header_place(), expected(), peer()); }
};

}  // namespace

std::unique_ptr<Operation> make_mpi_send(MpiChannels& channels, at::Tensor tensor, int to,
                                         int tag) {
  return std::make_unique<MpiSend>(channels, std::move(tensor), to, tag);
}

std::unique_ptr<Operation> make_mpi_receive(MpiChannels& channels, at::Tensor tensor, int from,
                                            int tag) {
  return std::make_unique<MpiReceive>(channels, std::move(tensor), from, tag);
}

}  // namespace lockstep
