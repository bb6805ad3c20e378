// Streams of the stand-in. The first one of a device does its work at once. Work on the others is late: it is done in its order
// when its end is waited for or asked after, and an NCCL call among it goes on only as far as the other processes have come.
#pragma once
#include <unistd.h>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

// Does what it can; whether it is done.
typedef std::function<bool()> Work;

struct Stream {
    bool is_first;
    std::recursive_mutex lock;
    std::deque<Work> waiting;
    size_t done = 0;
};

// Does the work of `stream` up to number `upto`. Whether it is done; with `waits`, it is.
inline bool run(Stream *stream, size_t upto, bool waits) {
    if (!stream || stream->is_first) return true;
    std::lock_guard<std::recursive_mutex> held(stream->lock);
    while (stream->done < upto && !stream->waiting.empty()) {
        if (stream->waiting.front()()) stream->waiting.pop_front(), stream->done++;
        else if (waits) usleep(100);
        else return false;
    }
    return true;
}

// Puts work into a stream; the first one does it before this returns.
inline void put(Stream *stream, Work work) {
    if (stream && !stream->is_first) {
        std::lock_guard<std::recursive_mutex> held(stream->lock);
        return stream->waiting.push_back(std::move(work));
    }
    while (!work()) usleep(100);
}
