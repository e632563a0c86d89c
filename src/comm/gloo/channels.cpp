// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/channels.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "comm/collective/operation.h"
#include "comm/gloo/store_rendezvous.h"
#include "native/posix/environment_variable.h"

namespace lockstep {
namespace {

// How long an answer of the store is waited for, and how often it is asked about ranks that
// aborted.
constexpr std::chrono::seconds kStoreLimit{2};
constexpr std::chrono::milliseconds kPollInterval{250};
// A rank that is alive asks several times in it.
constexpr std::chrono::milliseconds kTimeToHear{1000};

std::string waits(int rank) {
  return "waits/" + std::to_string(rank);
}

std::string heard(int rank) {
  return "heard/" + std::to_string(rank);
}

std::shared_ptr<::gloo::transport::Device> make_device(const LaunchEnvironment& environment) {
  const std::string interface = native::environment_variable("GLOO_SOCKET_IFNAME");
  if (!interface.empty()) {
    return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  }
  // Where all ranks are on one host, no other host need reach them.
  if (environment.local_size == environment.world_size && environment.host.empty()) {
    return c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
  }
  return c10d::ProcessGroupGloo::createDefaultDevice();
}

}  // namespace

GlooChannels::GlooChannels(Store store, const LaunchEnvironment& environment,
                           std::chrono::milliseconds timeout)
    : rank_(environment.rank), size_(environment.world_size), store_(std::move(store)) {
  rendezvous_in_gloo_store(*store_, rank_, size_, timeout);
  const auto open = [&](const char* name) {
    const auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(make_device(environment));
    options->threads = 1;  // one step is under way at a time
    return c10::make_intrusive<c10d::ProcessGroupGloo>(
        c10::make_intrusive<c10d::PrefixStore>(name, store_), rank_, size_, options);
  };
  fingerprints_ = open("fingerprints");
  data_ = open("data");
  messages_ = open("messages");
}

GlooChannels::~GlooChannels() = default;

std::optional<std::string> GlooChannels::ask(std::function<std::string()> question) {
  // The rank that serves the store may be stopped, and c10d waits for its answer without a
  // deadline: so another thread waits.
  if (is_store_silent_) return std::nullopt;
  auto answer = std::make_shared<std::promise<std::string>>();
  auto future = answer->get_future();
  auto thread = std::make_unique<std::thread>([answer, question = std::move(question)] {
    try {
      answer->set_value(question());
    } catch (...) {
      answer->set_exception(std::current_exception());
    }
  });
  if (future.wait_for(kStoreLimit) != std::future_status::ready) {
    is_store_silent_ = true;
    [[maybe_unused]] auto* kept = thread.release();  // waits as long as the store is silent
    return std::nullopt;
  }
  thread->join();
  try {
    return future.get();
  } catch (const std::exception&) {  // the process that served the store is gone
    is_store_silent_ = true;
    return std::nullopt;
  }
}

void GlooChannels::announce_abort(const std::string& reason) noexcept {
  try {
    static_cast<void>(ask([store = store_, rank = rank_, text = reason.substr(0, 500)] {
      // The first reason is the true one.
      store->compareSet("aborted", {},
                        bytes_of_text("rank " + std::to_string(rank) + " gave up: " + text));
      return read_abort_reason(*store, rank);
    }));
  } catch (...) {
  }
}

void GlooChannels::let_others_hear() noexcept {
  try {
    static_cast<void>(ask([store = store_, size = size_] {
      if (!store->check({"aborted"})) return std::string();
      std::vector<std::string> keys;
      for (int rank = 0; rank < size; ++rank) keys.push_back(heard(rank));
      store->wait(keys, kTimeToHear);
      return std::string();
    }));
  } catch (...) {
  }
}

void GlooChannels::announce_waiting(std::uint64_t collective) noexcept {
  try {
    static_cast<void>(ask([store = store_, key = waits(rank_), collective] {
      store->set(key, bytes_of_text(std::to_string(collective)));
      return std::string();
    }));
  } catch (...) {
  }
}

std::string GlooChannels::poll_abort_reason() {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_poll_ < kPollInterval) return "";
  last_poll_ = now;
  return abort_reason();
}

std::string GlooChannels::abort_reason() {
  return ask([store = store_, rank = rank_] { return read_abort_reason(*store, rank); })
      .value_or("");
}

std::string GlooChannels::late_ranks(std::uint64_t collective) {
  const auto answer = ask([store = store_, size = size_, own = rank_, collective] {
    std::string text;
    for (int rank = 0; rank < size; ++rank) {
      if (rank == own) continue;
      const bool has_waited = store->check({waits(rank)});
      if (has_waited && std::stoull(text_of_bytes(store->get(waits(rank)))) >= collective) continue;
      text += (text.empty() ? "rank " : ", rank ") + std::to_string(rank) + " has not arrived";
    }
    return text.empty() ? std::string("the data of a rank that has arrived does not come") : text;
  });
  return answer.value_or("the rank that serves the store does not answer");
}

std::string read_abort_reason(c10d::Store& store, int own_rank) {
  if (!store.check({"aborted"})) return "";
  std::string reason = text_of_bytes(store.get("aborted"));
  store.set(heard(own_rank), std::vector<std::uint8_t>{1});
  return reason;
}

bool is_gloo_work_done(GlooChannels& channels, c10d::Work& work) {
  if (!work.isCompleted()) return false;
  const auto error = work.exception();
  if (!error) return true;
  std::string reason = channels.abort_reason();
  auto kind = OperationFailure::Kind::PeerLost;
  if (reason.empty()) {
    kind = OperationFailure::Kind::ConnectionLost;
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& caught) {
      reason = std::string("a connection to another rank broke: ") + message_of(caught);
    }
  }
  throw OperationFailure{kind, reason, "look at what the other ranks reported first"};
}

}  // namespace lockstep
