// SPDX-License-Identifier: BSD-3-Clause
#include <atomic>
#include <exception>
#include <thread>
#include <utility>

#include "comm/collective/operation.h"
#include "comm/gloo/start_lock.h"
#include "comm/gloo/store_rendezvous.h"
#include "comm/gloo/transport.h"

namespace lockstep {

/// c10d can only wait for a message, so each has a thread that does. What the thread touches is
/// here, and outlives a request that never ends.
struct GlooMessageState {
  GlooChannels::Group group;
  at::Tensor tensor;
  MessageHeader header;  // sent, or expected
  int peer = 0;
  bool is_sent = false;
  std::atomic<bool> is_done{false};
  std::exception_ptr error;  // written before `is_done`
};

namespace {

at::Tensor header_tensor(const MessageHeader& header) {
  auto tensor = at::empty({static_cast<std::int64_t>(sizeof(header))}, at::kByte);
  std::memcpy(tensor.data_ptr(), &header, sizeof(header));
  return tensor;
}

/// Transfers one part to its end: the header under twice the tag, the tensor under one more.
void transfer(const GlooMessageState& state, const at::Tensor& part, int offset) {
  std::vector<at::Tensor> parts{part.view({-1}).view(at::kByte)};
  const int tag = 2 * state.header.tag + offset;
  GlooChannels::Group::element_type* group = state.group.get();
  c10::intrusive_ptr<c10d::Work> work;
  {
    const auto lock = lock_gloo_start();
    work =
        state.is_sent ? group->send(parts, state.peer, tag) : group->recv(parts, state.peer, tag);
  }
  work->wait(kGlooTimeout);
}

void run(GlooMessageState& state) {
  const auto header = header_tensor(state.header);
  transfer(state, header, 0);
  if (!state.is_sent) {
    // Before gloo sees a tensor of another size, which it takes for a fault of its own.
    MessageHeader came;
    std::memcpy(&came, header.const_data_ptr(), sizeof(came));
    check_message(came, state.header, state.peer);
  }
  if (state.tensor.nbytes() != 0) transfer(state, state.tensor, 1);
}

class GlooMessage final : public TransportRequest {
 public:
  GlooMessage(GlooChannels& channels, const at::Tensor& tensor, const MessageHeader& header,
              int peer, bool is_sent)
      : state_(std::make_shared<GlooMessageState>()) {
    state_->group = channels.messages();
    state_->header = header;
    state_->tensor = tensor;
    state_->peer = peer;
    state_->is_sent = is_sent;
    // Under one tag messages keep their order: each begins when the one before has ended.
    previous_ = std::exchange(channels.latest_message(peer, header.tag, is_sent), state_);
  }

  ~GlooMessage() override {
    if (!thread_) return;
    if (state_->is_done) {
      thread_->join();
    } else {
      [[maybe_unused]] auto* kept = thread_.release();  // gloo waits for the message for ever
    }
  }
  GlooMessage(const GlooMessage&) = delete;
  GlooMessage& operator=(const GlooMessage&) = delete;

  bool is_done() override {
    if (!thread_ && !try_start()) return false;
    if (!state_->is_done) return false;
    if (!state_->error) return true;
    try {
      std::rethrow_exception(state_->error);
    } catch (const OperationFailure&) {
      throw;
    } catch (const std::exception& error) {
      throw OperationFailure{
          OperationFailure::Kind::PeerLost,
          "the connection to rank " + std::to_string(state_->peer) + " broke: " + message_of(error),
          "look at what that rank reported first"};
    }
  }

 private:
  bool try_start() {
    if (previous_ && !previous_->is_done) return false;
    previous_.reset();
    thread_ = std::make_unique<std::thread>([state = state_] {
      try {
        run(*state);
      } catch (...) {
        state->error = std::current_exception();
      }
      state->tensor.reset();  // the latest message of each tag is kept
      state->is_done = true;
    });
    return true;
  }

  std::shared_ptr<GlooMessageState> state_, previous_;
  std::unique_ptr<std::thread> thread_;
};

}  // namespace

std::unique_ptr<TransportRequest> make_gloo_message(GlooChannels& channels,
                                                    const at::Tensor& tensor,
                                                    const MessageHeader& header, int peer,
                                                    bool is_sent) {
  return std::make_unique<GlooMessage>(channels, tensor, header, peer, is_sent);
}

}  // namespace lockstep
