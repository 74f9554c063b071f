-- aggregate: avg_speed
-- grain: one row per camera and window
-- from: camera_events
-- windows: [5m, 1h, 1d]
-- timezone: Europe/Kyiv
SELECT camera_id, avg(vehicle_speed) AS avg_speed, count(*) AS vehicles
FROM camera_events
GROUP BY camera_id
